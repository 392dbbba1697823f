# SPDX-License-Identifier: BSD-3-Clause
# Builds for another processor with clang, as gcc.cmake does with GCC, whose C++ library it takes. It needs clang, lld,
# qemu-user, and Debian's libstdc++-<version>-dev-<architecture>-cross, where aarch64 is the architecture arm64.
set(NLL_PROCESSOR aarch64 CACHE STRING "Processor to build for, as qemu calls it")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES NLL_PROCESSOR)

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${NLL_PROCESSOR})
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_CXX_COMPILER_TARGET ${NLL_PROCESSOR}-linux-gnu)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static -fuse-ld=lld")
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-${NLL_PROCESSOR})
