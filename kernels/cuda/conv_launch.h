#pragma once
// The passes of a convolution as conv.cu calls them; each is queued on the stream.

#include "kernels/conv.h"
#include "kernels/cuda/conv.cuh"
#include "runtime/cuda/stream.h"

namespace taper::cuda {

/// Lays a KRSC filter of f32 out as packed_start() says, rounded to `type`.
void launch_pack_filter(CudaStream& stream, DType type, const ConvProduct& p, const void* filter,
                        void* packed);

/// out = epilogue(product of `in` and the packed filter). `tf32` is BackendOptions', here and below.
void launch_conv_product(CudaStream& stream, DType type, bool tf32, const ConvProduct& p, const void* in,
                         const void* packed, const ConvEpilogue& epilogue, void* out);

/// dfilter += gradient of the filter, for the forward pass's product; in is its x.
void launch_filter_gradient(CudaStream& stream, DType type, bool tf32, const ConvProduct& p, const void* in,
                            const void* dout, void* dfilter);

}  // namespace taper::cuda
