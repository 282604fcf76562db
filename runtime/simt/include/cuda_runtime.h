#pragma once
// Stands in for the toolkit's header of this name, so that CUDA sources compile as C++ and run on a CPU. This
// folder comes first on the include path; types and declarations are the toolkit's own, the functions are
// runtime/simt's.

// Before the toolkit's headers, which define only what is not defined; one of them may have come first.
#undef __shared__
#undef __launch_bounds__
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // AddressSanitizer has no red zones around thread-local variables
#else
#define __shared__ static thread_local
#endif
#define __launch_bounds__(...)

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include "runtime/simt/api.h"
#include "runtime/simt/atomics.h"
#include "runtime/simt/collectives.h"
#include "runtime/simt/index.h"
#include "runtime/simt/intrinsics.h"
#include "runtime/simt/launch.h"
