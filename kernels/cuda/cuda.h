#pragma once
// The CUDA backend: hand-written kernels, the same on a GPU (device `cuda`) and under the CPU execution layer
// runtime/simt (device `sim`). One class; each family's kernels and the members that launch them are in a
// file of their own.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "runtime/cuda/stream.h"

namespace taper {

/// Pointers are device memory, aligned as their elements are; a kernel reads 16 bytes at once only where the
/// pointers allow. Kernels run on the stream; a member returns as soon as they are queued, unless it says
/// otherwise. Every sum has a fixed order, whatever the device, so that the bits are the same on all.
class CudaBackend : public Backend {
 public:
  /// For CUDA device number `device`, known by `name` ("cuda" or "sim").
  CudaBackend(std::string name, int device, const BackendOptions& options)
      : name_(std::move(name)), device_(device), options_(options) {}
  std::string name() const override { return name_; }
  std::map<std::string, std::string> versions() const override;
  /// The host's threads have no part in the work: `threads` changes nothing.
  std::unique_ptr<Stream> make_stream(int threads) override;
  /// NCCL's.
  std::unique_ptr<Communicator> connect(Communicator& ranks) override;

  FilterFormat filter_format(Stream&, const ConvShape&, DType, ConvPass) override;
  void pack_filter(Stream&, const ConvShape&, DType type, ConvPass, const void* filter,
                   void* packed) override;
  void conv_forward(Stream&, const ConvShape&, DType type, const void* x, const void* packed,
                    const ConvEpilogue&, void* y) override;
  void conv_backward_data(Stream&, const ConvShape&, DType type, const void* dy, const void* packed,
                          void* dx) override;
  void conv_backward_filter(Stream&, const ConvShape&, DType type, const void* x, const void* dy,
                            void* dfilter) override;

  void matmul(Stream&, const MatmulShape&, DType type, const void* a, const void* b, const MatmulEpilogue&,
              DType out_type, void* out) override;
  void sum_rows(Stream&, int64_t rows, int64_t columns, DType type, const void* x, void* out) override;

  void activate(Stream&, Activation f, int64_t count, DType type, const void* x, void* y) override;
  void activate_backward(Stream&, Activation f, int64_t count, DType type, const void* dy, const void* saved,
                         void* dx) override;
  void add(Stream&, int64_t count, DType type, const void* a, const void* b, void* y) override;
  void axpby(Stream&, int64_t count, DType type, double alpha, const void* x, double beta, void* y) override;
  void cast(Stream&, int64_t count, DType from_type, const void* from, DType to_type, void* to) override;
  void transpose(Stream&, int64_t batch, int64_t rows, int64_t columns, DType type, const void* x,
                 void* y) override;
  void dropout(Stream&, int64_t rows, int64_t features, DType type, double p, uint64_t key,
               const int64_t* row_ids, const void* x, void* y) override;

  void batch_norm_forward(Stream&, const BatchNormShape&, DType type, const void* x, const void* gamma,
                          const void* beta, const void* residual, double eps, void* y, void* mean, void* rstd,
                          void* variance) override;
  void batch_norm_backward(Stream&, const BatchNormShape&, DType type, const void* dy, const void* x,
                           const void* y, const void* gamma, const void* mean, const void* rstd,
                           bool fixed_statistics, void* dx, void* dresidual, void* dgamma,
                           void* dbeta) override;
  void batch_norm_inference(Stream&, const BatchNormShape&, DType type, const void* x, const void* scale,
                            const void* shift, const void* residual, void* y) override;
  void layer_norm_forward(Stream&, int64_t rows, int64_t features, DType type, const void* x,
                          const void* residual, const void* gamma, const void* beta, double eps, void* sum,
                          void* y, void* mean, void* rstd) override;
  void layer_norm_backward(Stream&, int64_t rows, int64_t features, DType type, const void* dy,
                           const void* sum, const void* gamma, const void* mean, const void* rstd, void* dx,
                           void* dgamma, void* dbeta) override;

  void attention_forward(Stream&, const AttentionShape&, DType type, const void* qkv, void* o,
                         void* logsumexp) override;
  void attention_backward(Stream&, const AttentionShape&, DType type, const void* d_o, const void* qkv,
                          const void* o, const void* logsumexp, void* dqkv) override;
  void attention_divergence(Stream&, const AttentionPair&, DType type, const void* teacher,
                            const void* student, void* loss, void* dstudent) override;
  void softmax(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm, const void* x,
               void* y) override;
  void softmax_backward(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm, const void* dy,
                        const void* y, void* dx) override;
  void embedding_forward(Stream&, int64_t rows, int64_t features, DType type, const int32_t* ids,
                         const void* table, void* y) override;
  void embedding_backward(Stream&, int64_t rows, int64_t features, int64_t entries, DType type,
                          const int32_t* ids, const void* dy, void* dtable) override;

  void cross_entropy(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                     const int32_t* labels, double smoothing, void* loss, void* dlogits) override;
  void count_correct(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                     const int32_t* labels, int32_t* counts) override;
  void kl_divergence(Stream&, int64_t rows, int64_t classes, DType type, const void* teacher,
                     const void* student, double temperature, void* loss, void* dstudent) override;
  void squared_error(Stream&, int64_t count, DType type, const void* student, const void* target,
                     double scale, void* loss, void* dstudent) override;
  void imitation(Stream&, const ImitationShape&, DType type, const void* t, const void* u, const void* h,
                 void* loss, void* dh) override;
  void imitation_free(Stream&, const ImitationShape&, DType type, const void* t, const void* u, const void* h,
                      void* loss, void* dh, void* du) override;

  void max_pool_forward(Stream&, const PoolShape&, DType type, const void* x, void* y,
                        uint8_t* winner) override;
  void max_pool_backward(Stream&, const PoolShape&, DType type, const void* dy, const uint8_t* winner,
                         void* dx) override;
  void average_pool_forward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type, const void* x,
                            void* y) override;
  void average_pool_backward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type, const void* dy,
                             void* dx) override;

  void sgd(Stream&, std::span<const Segment>, DType type, const Sgd&, double gradient_scale,
           const void* gradient, void* momentum, void* parameter) override;
  void adamw(Stream&, std::span<const Segment>, DType type, const AdamW&, double gradient_scale,
             const void* gradient, void* first_moment, void* second_moment, void* parameter) override;
  void lamb(Stream&, std::span<const Segment>, DType type, const Lamb&, double gradient_scale,
            const void* gradient, void* first_moment, void* second_moment, void* parameter) override;
  void sum_of_squares(Stream&, std::span<const Segment>, DType type, const void* x, double* squares) override;

 protected:
  int device() const { return device_; }
  const BackendOptions& options() const { return options_; }
  /// out = the epilogue of a product that lies dense in f32, [batch, m, n], without its scale.
  void apply_epilogue(Stream&, const MatmulShape&, const float* product, const MatmulEpilogue&,
                      DType out_type, void* out);

 private:
  /// matmul with products of f32 operands in tf32 or not, whatever the options say.
  void product(Stream&, const MatmulShape&, DType type, bool tf32, const void* a, const void* b,
               const MatmulEpilogue&, DType out_type, void* out);

  std::string name_;
  int device_;
  BackendOptions options_;
};

/// The CUDA device of a rank: number local_rank. UserError unless this machine shows one for each local rank.
int device_of(const RankPlace& place);

}  // namespace taper
