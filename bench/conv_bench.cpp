// Convolutions, and the packing of filters.

#include "bench/conv_ops.h"
#include "bench/shapes.h"

namespace taper::bench {
namespace {

// Arguments: filter, packed. A packed filter is right if the convolution that reads it is.
Op pack(const Layer& layer, DType type, ConvPass pass) {
  ConvShape s = layer.shape;
  bool ahead = pass == ConvPass::forward;
  return {.name = fmt::format("pack_filter_{}/{}/{}", ahead ? "forward" : "backward_data", layer.name,
                              name(type)),
          .arguments = {{DType::f32, {s.filter_size()}}, {DType::u8, {1}}},
          .run =
              [=](Arguments& a) {
                device().backend->pack_filter(*device().stream, s, type, pass, a[0].data(), a[1].data());
              },
          .error =
              [=](const Arguments& a) {
                Op reader = ahead ? conv_forward(layer, type, false) : conv_backward_data(layer, type);
                Arguments of_reader = random_arguments(reader);
                of_reader[1] = a[1];
                reader.run(of_reader);
                return reader.error(of_reader);
              },
          .prepare =
              [=](Arguments& a) {
                a[0] = random_tensor(DType::f32, {s.filter_size()}, kFilterSeed);
                a[1] = Tensor(*device().stream, DType::u8,
                              {device().backend->filter_format(*device().stream, s, type, pass).bytes});
              }};
}

const bool registered = [] {
  for (DType type : {DType::f32, DType::bf16})
    for (const Layer& layer : layers()) {
      bool of_image = layer.shape.c <= 3;  // whose gradient nobody needs
      add(pack(layer, type, ConvPass::forward));
      add(conv_forward(layer, type, false));
      add(conv_forward(layer, type, true));
      if (!of_image) add(pack(layer, type, ConvPass::backward_data));
      if (!of_image) add(conv_backward_data(layer, type));
      add(conv_backward_filter(layer, type));
    }
  return true;
}();

}  // namespace
}  // namespace taper::bench
