// Batch norm on the activations of ResNet-50 and the demo, layer norm on BERT's.

#include "bench/norm_ops.h"
#include "bench/shapes.h"

namespace taper::bench {
namespace {

const bool registered = [] {
  for (DType type : {DType::f32, DType::bf16}) {
    for (const Layer& layer : layers())
      for (bool residual : {false, true}) {
        const ConvShape& s = layer.shape;
        BatchNormShape shape{s.n * s.out_h() * s.out_w(), s.k, true};
        add(batch_norm_forward(layer.name, shape, type, residual));
        add(batch_norm_backward(layer.name, shape, type, residual));
        add(batch_norm_inference(layer.name, shape, type, residual));
      }
    add(layer_norm_forward(2048, 768, type));
    add(layer_norm_backward(2048, 768, type));
  }
  return true;
}();

}  // namespace
}  // namespace taper::bench
