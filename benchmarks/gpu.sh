#!/usr/bin/env bash
# All that waits for a GPU, the most telling first; the figures go to benchmarks/results/. Nothing of it has been run yet.
#     benchmarks/gpu.sh DATA_DIR [first line to run, from 1]
# DATA_DIR holds CIFAR-10 and CIFAR-100 as torchvision keeps them. Every line ends within ten minutes and may be run by itself.
data=${1:?the folder of CIFAR-10 and CIFAR-100 is missing}
step="python -m benchmarks.step --device cuda --real-batch 256 --turns 20"
lines=(
  # 1. Captured and compiled passes against the plain ones, and what a failed capture leaves behind.
  "python -m pytest -q tests/networks/test_graph.py tests/networks/test_fused.py tests/runs/test_engine.py tests/training/test_train.py tests/data/test_augment.py"
  # 2. At most 4 ms at IPC 50 on an H200, at least 20 times as fast as the published loop, 3.7 GB, three times the floor.
  "$step --norm instance --ipc 1 --ipc 10 --ipc 50 --name step_cuda"
  # 3. The other memory layout: if it is the faster, change LAYOUT in condense/networks/accelerate.py.
  "$step --norm instance --ipc 10 --ipc 50 --layout contiguous --name step_cuda_contiguous"
  # 4. Between two convolutions: the kernels at most 1.5 times the least time at 32 px, and faster than the compiler's code.
  "python -m benchmarks.kernel --name kernel_cuda"
  # 5. 20 networks at IPC 50 in under 60 s; one by one as graphs, stacked, or as graphs on several streams.
  "python -m benchmarks.evaluate --device cuda --ipc 50 --epochs 1000 --repeats 10 --turns 50 --data-dir $data --name evaluate_cuda"
  # 6, 7. Under 8 GB from 10 to 1,000 classes at 64 px and IPC 50; cost linear within 10 %.
  "python -m benchmarks.scale --device cuda --curve classes --name scale_cuda_classes"
  "python -m benchmarks.scale --device cuda --curve ipc --curve size --curve ranks --name scale_cuda"
  # 8. The tables, as often as there is time: each call goes on where the last one ended.
  "python -m benchmarks.campaign --workers 8 --minutes 9 --data-dir $data"
)
for number in "${!lines[@]}"; do
  ((number + 1 >= ${2:-1})) || continue
  echo "== $((number + 1)): ${lines[number]}"
  timeout --signal INT 595 ${lines[number]} || echo "== $((number + 1)) ended with $?"
done
