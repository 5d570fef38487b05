#!/usr/bin/env bash
# Measurements on a GPU, in two calls of about ten minutes each:
#   benchmarks/gpu.sh checks DATA OUT    # the cuda tests, training speed with and without torch.compile, batch sizes
#   benchmarks/gpu.sh train DATA OUT     # ResNet34-U-Net for eight minutes; its weights in parts of 15 MB
# DATA: the pets. OUT: an empty folder for logs, histories and weights. If uploads to the machine are limited, send the
# images as 256x256 JPEGs (the data is then under 64 MB) and leave out the released weights.
set -uo pipefail
what=$1 data=$2 out=$3
python=${PYTHON:-python}
cache=$(mktemp -d)
note() { echo "== $* ($(date +%T))" | tee -a "$out/log.txt"; }
timed() { timeout "$1" "${@:2}" >> "$out/log.txt" 2>&1 || note "exit status $? of ${*:2}"; }

if [ "$what" = checks ]; then
    note "tests"
    timed 120 "$python" -m pytest -q -m cuda -n 0
    for compiled in "" "--also=--compile" "--also=--compile reduce-overhead"; do
        for model in "resnet34_unet --image_size 256" "unet --width 16 --image_size 256" "unet --width 16 --image_size 96"; do
            note "$model $compiled"
            # shellcheck disable=SC2086
            timed 70 "$python" benchmarks/throughput.py --model $model --batch_size 64 --data_path "$data" \
                --cache_dir "$cache" --steps 20 --rounds 3 ${compiled:+"$compiled"}
        done
    done
    for batch in 16 32 128; do
        note "batch size $batch"
        timed 60 "$python" benchmarks/throughput.py --model resnet34_unet --image_size 256 --batch_size "$batch" \
            --data_path "$data" --cache_dir "$cache" --steps 20 --rounds 3
    done
else
    note "ResNet34-U-Net"
    timed 560 "$python" src/train.py --model resnet34_unet --data_path "$data" --cache_dir "$cache" --hours 0.13 \
        --start_size 128 --batch_size 64 --augment full --save_dir "$out" --name gpu --save_every 2
    "$python" src/export.py --model "$out/gpu.pth" --format half &&
        split --bytes 15M "$out/gpu.half.pth" "$out/gpu.half.pth." && rm "$out/gpu.half.pth"
    timed 60 "$python" src/evaluate.py --model "$out/gpu.pth" --split valid --data_path "$data" --cache_dir "$cache"
    rm -f "$out/gpu.last.pth"
    [ -f "$out/gpu.half.pth.aa" ] && rm -f "$out/gpu.pth"
fi
note "done"
