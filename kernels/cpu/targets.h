#pragma once
// Which instruction sets the loops are compiled for: AVX-512, AVX2 and the compiler's baseline. Include it
// before any header of Highway.

// The sets left out would make the code larger and gain nothing measurable.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
