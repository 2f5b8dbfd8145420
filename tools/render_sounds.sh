#!/bin/sh
# Renders the emulator's built-in voices: src/novasonic/emulator/sounds/*.wav and texts.json.
#
#     tools/render_sounds.sh [directory]
#
# Needs espeak-ng 1.51 and sox. The files are in the repository, as not everybody has these; render them
# again when a text changes, and listen. The emulator reads texts.json: what a file says is written once, here.
set -eu

cd "$(dirname "$0")/.."
sounds=${1:-src/novasonic/emulator/sounds}
mkdir -p "$sounds"
printf '{\n' >"$sounds/texts.json"
comma=''

# render NAME RATE VOICE WORDS-PER-MINUTE PITCH TEXT
render() {
    raw=$(mktemp)
    espeak-ng -v "$3" -s "$4" -p "$5" -g 1 --stdout "$6" >"$raw"
    # No silence before the first word and 50 ms at the end, so that whoever plays the files decides about
    # pauses; no rumble; as loud as recorded speech, with 3 dB left below clipping. -D and -R: no dither and
    # a fixed seed, so that the same text gives the same file.
    sox -D -R -t wav "$raw" -b 16 -c 1 -r "$2" "$sounds/$1" \
        gain -3 highpass 70 silence 1 0.01 -55d fade q 0.005 reverse silence 1 0.01 -55d fade q 0.01 reverse \
        pad 0.02 0.05 gain -n -3
    rm -f "$raw"
    printf '%s  "%s": "%s"' "$comma" "$1" "$6" >>"$sounds/texts.json"
    comma=',
'
}

# The user, at the rate of a microphone that listens to speech. A pause inside may not pass for the end.
user() { render "$1" 16000 en-us+Andy 160 45 "$2"; }

user question.wav "Hello, could you tell me what the weather is like in Paris today?"
user interruption.wav "Sorry, and what about tomorrow?"

# The assistant, at the rate at which the service answers.
assistant() { render "$1" 24000 en-gb-x-rp+f3 175 55 "$2"; }

assistant answer-1.wav "Of course! It is sunny in Paris today, with a light wind."
assistant answer-2.wav "It is twenty-one degrees now, and it will get warmer in the afternoon."
assistant answer-3.wav "In the evening come some clouds, but you can leave your umbrella at home."
assistant answer-4.wav "Tomorrow it will rain, so take that umbrella after all. Goodbye!"

printf '\n}\n' >>"$sounds/texts.json"
