#!/usr/bin/env bash
# Compiles csrc/cuda for every architecture and prints one row per kernel: registers, static shared
# memory, stack, spills. Fails where nvcc fails or a kernel spills. Needs nvcc, no GPU.
#   csrc/tests/check_cuda.sh [ARCH...]          default: 75 80 86 89 90 100 120, PTX for the last
set -euo pipefail

csrc=$(cd "$(dirname "$0")/.." && pwd)
archs=("$@")
[ ${#archs[@]} -gt 0 ] || archs=(75 80 86 89 90 100 120)
last=${archs[${#archs[@]} - 1]}
nvcc=${NVCC:-nvcc}
command -v "$nvcc" >/dev/null || { echo "check_cuda: $nvcc not found (set NVCC)" >&2; exit 1; }

gencode=("-gencode" "arch=compute_$last,code=compute_$last")
for arch in "${archs[@]}"; do
    gencode+=("-gencode" "arch=compute_$arch,code=sm_$arch")
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for source in "$csrc"/cuda/*.cu; do
    log="$folder/$(basename "$source").log"
    if ! "$nvcc" -std=c++17 -O3 --threads 2 -Xptxas -v -Xcompiler -Wall,-Wextra,-fPIC \
        -Werror all-warnings -I "$csrc/include" "${gencode[@]}" \
        -c "$source" -o "$folder/object.o" >"$log" 2>&1; then
        cat "$log" >&2
        echo "check_cuda: $source does not compile" >&2
        exit 1
    fi
done

# ptxas prints four lines a kernel: its name and architecture, a heading, stack and spills, registers.
cat "$folder"/*.log | c++filt | awk '
    /Compiling entry function/ {
        split($0, quoted, "\047"); kernel = quoted[2]; arch = quoted[4]
        gsub(/\(anonymous namespace\)::|epigraf::|cuda::|void /, "", kernel)
        sub(/\(.*/, "", kernel)
    }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
        match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
        printf "%-52s %-8s %9d %7d %6d %7d\n", kernel, arch, registers, shared, stack, stores + loads
    }' | sort -u >"$folder/table"

printf '%-52s %-8s %9s %7s %6s %7s\n' kernel arch registers shared stack spills
cat "$folder/table"
[ -s "$folder/table" ] || { echo "check_cuda: no kernel found in the output of ptxas" >&2; exit 1; }
if awk '$NF > 0 { spilled = 1 } END { exit !spilled }' "$folder/table"; then
    echo "check_cuda: some kernel spills registers" >&2
    exit 1
fi
echo "check_cuda: $(wc -l <"$folder/table") kernels, no spills"
