// SPDX-License-Identifier: BSD-3-Clause
// Keeps two builds of nll in one process apart.
//
// NLL_VERSION_NAMESPACE is an inline namespace around everything: two versions share no name,
// whatever a linker does. It changes with every version that may change a layout: each minor one
// below 1.0.
//
// NLL_HIDDEN hides what its block of a namespace declares. So two builds of one version, with other
// flags, share no function and no state, and an embedder's library does not export nll's. (GCC
// makes inline variables and static locals unique across a process unless they are hidden.) Public
// types are not hidden: an embedder's class that has one as a member would be more visible than its
// member, which compilers warn of, and exceptions are caught across libraries by their types.
//
// NLL_API exports a function of the compiled library where that is a shared one (NLL_SHARED), and
// hides it elsewhere.
#pragma once

#define NLL_VERSION_NAMESPACE v0_1

#if defined(__GNUC__)
#define NLL_HIDDEN [[gnu::visibility("hidden")]]
#else
#define NLL_HIDDEN
#endif

#if defined(NLL_SHARED) && defined(__GNUC__)
#define NLL_API [[gnu::visibility("default")]]
#else
#define NLL_API NLL_HIDDEN
#endif
