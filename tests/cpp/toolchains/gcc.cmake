# SPDX-License-Identifier: BSD-3-Clause
# Builds for another processor with Debian's cross GCC, and lets ctest run the programs by qemu's user mode:
#   cmake -S . -B build -DNLL_TESTS=ON -DNLL_OPENMP=OFF \
#         -DCMAKE_TOOLCHAIN_FILE=tests/cpp/toolchains/gcc.cmake [-DNLL_PROCESSOR=aarch64|riscv64|s390x]
# needs g++-<processor>-linux-gnu and qemu-user. Programs are static: qemu then needs no library of that processor.
set(NLL_PROCESSOR aarch64 CACHE STRING "Processor to build for, as qemu calls it")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES NLL_PROCESSOR)

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${NLL_PROCESSOR})
set(CMAKE_CXX_COMPILER ${NLL_PROCESSOR}-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-${NLL_PROCESSOR})
