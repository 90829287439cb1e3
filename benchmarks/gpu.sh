#!/usr/bin/env bash
# All that waits for a GPU, the most telling first. A call runs one line, in less than ten minutes.
# Nothing of it has been run yet.
#     benchmarks/gpu.sh          # lists the lines
#     benchmarks/gpu.sh 2        # runs the second one
# OUT       the folder that the new result files are copied to
# DATA_DIR  CIFAR-10 and CIFAR-100 as torchvision keeps them, for the lines that say --data-dir
# PYTHON    python unless given
set -u
cd "$(dirname "$0")/.." || exit
data=${DATA_DIR:-DATA_DIR} out=${OUT:-OUT}
step="-m benchmarks.step --device cuda --norm instance --real-batch 256 --turns 20"
lines=(
  # 1. Captured and compiled passes against the plain ones, and what a failed capture leaves behind.
  "-m pytest -q tests/networks/test_graph.py tests/networks/test_fused.py tests/runs/test_engine.py tests/training/test_train.py tests/data/test_augment.py"
  # 2. On an H200 at most 4 ms at IPC 50, 20 times as fast as the published loop, 3.7 GB, three times the floor.
  "$step --ipc 1 --ipc 10 --ipc 50 --name step_cuda"
  # 3. The other memory layout. If it is the faster one, change LAYOUT in condense/networks/accelerate.py.
  "$step --ipc 1 --ipc 10 --ipc 50 --layout contiguous --name step_cuda_contiguous"
  # 4. Where the time of a step goes.
  "-m benchmarks.breakdown --device cuda --ipc 10 --ipc 50 --turns 20 --name breakdown_cuda"
  # 5. Between two convolutions: the kernels at most 1.5 times the least time at 32 px, and faster than the compiler's code.
  "-m benchmarks.kernel --name kernel_cuda"
  # 6, 7. Under 8 GB from 10 to 1,000 classes at 64 px and IPC 50; the cost is linear within 10 %.
  "-m benchmarks.scale --device cuda --curve classes --name scale_cuda_classes"
  "-m benchmarks.scale --device cuda --curve ipc --curve size --curve ranks --name scale_cuda"
  # 8. 20 networks at IPC 50 in under 60 s: one by one as graphs, stacked, or as graphs on several streams.
  "-m benchmarks.evaluate --device cuda --ipc 50 --epochs 1000 --repeats 10 --turns 50 --data-dir $data --name evaluate_cuda"
  # 9. The tables, as often as there is time: each call goes on where the last one ended.
  "-m benchmarks.campaign --workers 8 --minutes 9 --out $out/campaign --data-dir $data"
)
number=${1:-0}
if [[ $number == 0 ]]; then
  for index in "${!lines[@]}"; do echo "$((index + 1)): python ${lines[index]}"; done
  exit
fi
if [[ ! $number =~ ^[1-${#lines[@]}]$ ]]; then
  echo "there are lines 1 to ${#lines[@]}, not $number" >&2
  exit 2
fi
line=${lines[number - 1]}
if [[ -z ${OUT:-} || ($line == *--data-dir* && -z ${DATA_DIR:-}) ]]; then
  echo "set OUT, and DATA_DIR for a line with --data-dir" >&2
  exit 2
fi
mkdir -p "$out" && began=$(mktemp "$out/.began.XXXX") || exit
touch -d "1 second ago" "$began"  # file systems tell times in steps
# shellcheck disable=SC2086  # the words of the line
timeout --signal INT 590 "${PYTHON:-python}" $line
ended=$?
find benchmarks/results -maxdepth 1 -type f -newer "$began" -exec cp {} "$out" \;
rm "$began"
exit $ended
