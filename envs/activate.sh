# Sourced by pixi when a GPU environment is activated: what the environment, not the machine, must decide.
# Works in sh and bash; touches nothing but its own variables. CONDA_PREFIX is the environment's folder.

# One toolkit for all who compile: nvcc for extensions and JIT kernels, ptxas for Triton. Triton carries its own ptxas, 12.8 and
# (for chips from 10.0 on, under the second name) 12.9: older than the environment's, and unknown to a newer GPU.
export CUDA_HOME="$CONDA_PREFIX"
export CUDA_PATH="$CONDA_PREFIX"
export TRITON_PTXAS_PATH="$CONDA_PREFIX/bin/ptxas"
export TRITON_PTXAS_BLACKWELL_PATH="$CONDA_PREFIX/bin/ptxas"
export TRITON_CUOBJDUMP_PATH="$CONDA_PREFIX/bin/cuobjdump"
export TRITON_NVDISASM_PATH="$CONDA_PREFIX/bin/nvdisasm"

# conda-forge keeps CUDA's headers and stubs under targets/: for compilers that look under CUDA_HOME/include only.
for _tanren_target in "$CONDA_PREFIX"/targets/*-linux; do
  if [ -d "$_tanren_target/include" ]; then
    export CPATH="$_tanren_target/include:$_tanren_target/include/cccl${CPATH:+:$CPATH}"
    export LIBRARY_PATH="$_tanren_target/lib:$_tanren_target/lib/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}"
  fi
done

# cuda-compat, a newer user-space driver: only where the environment has it, the kernel driver is older than it, and every card is
# a data-centre GPU (elsewhere it does not work). The words are those of envs/architectures.toml (a test compares).
_tanren_proc="${TANREN_PROC_NVIDIA:-/proc/driver/nvidia}"
_tanren_compat=$(find "$CONDA_PREFIX/cuda-compat" -name 'libcuda.so.[0-9]*.*' 2>/dev/null | sed -n 's/.*libcuda\.so\.//p' | head -n 1)
if [ -n "$_tanren_compat" ] && [ -r "$_tanren_proc/version" ]; then
  _tanren_driver=$(sed -n 's/.*Kernel Module.*[ ]\([0-9][0-9]*\.[0-9][0-9.]*\)[ ].*/\1/p' "$_tanren_proc/version" | head -n 1)
  _tanren_cards=$(sed -n 's/^Model:[[:space:]]*//p' "$_tanren_proc"/gpus/*/information 2>/dev/null || :)
  if [ -n "$_tanren_driver" ] && [ -n "$_tanren_cards" ] && [ "${_tanren_driver%%.*}" -lt "${_tanren_compat%%.*}" ]; then
    case $_tanren_cards in
      *GeForce* | *RTX* | *TITAN* | *Quadro* | *GB10* | *Thor* | *Orin*) ;;
      *)
        export LD_LIBRARY_PATH="$CONDA_PREFIX/cuda-compat${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        echo "tanren: driver $_tanren_driver is older than this environment's CUDA: cuda-compat $_tanren_compat stands in" >&2
        ;;
    esac
  fi
fi
unset _tanren_target _tanren_proc _tanren_compat _tanren_driver _tanren_cards
