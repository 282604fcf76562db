#pragma once
// The reference backend: every op as plain loops in double, each written from the formula of its contract
// (kernels/*.h). It defines what the other backends are tested against, so nothing here is clever or fast.

#include "kernels/backend.h"

namespace taper {

/// Takes DType::f64 only; any other type is a Failure. Deterministic, single-threaded, and without state.
class ReferenceBackend : public Backend {
 public:
  // conv.cpp
  FilterFormat filter_format(Stream&, const ConvShape&, DType, ConvPass) override;
  void pack_filter(Stream&, const ConvShape&, DType, ConvPass, const void* filter, void* packed) override;
  void conv_forward(Stream&, const ConvShape&, DType, const void* x, const void* packed, const ConvEpilogue&,
                    void* y) override;
  void conv_backward_data(Stream&, const ConvShape&, DType, const void* dy, const void* packed,
                          void* dx) override;
  void conv_backward_filter(Stream&, const ConvShape&, DType, const void* x, const void* dy,
                            void* dfilter) override;

  // matmul.cpp
  void matmul(Stream&, const MatmulShape&, DType, const void* a, const void* b, const MatmulEpilogue&,
              DType out_type, void* out) override;
  void sum_rows(Stream&, int64_t rows, int64_t columns, DType, const void* x, void* out) override;

  // activation.cpp
  void activate(Stream&, Activation, int64_t count, DType, const void* x, void* y) override;
  void activate_backward(Stream&, Activation, int64_t count, DType, const void* dy, const void* saved,
                         void* dx) override;
  void add(Stream&, int64_t count, DType, const void* a, const void* b, void* y) override;
  void axpby(Stream&, int64_t count, DType, double alpha, const void* x, double beta, void* y) override;
  void cast(Stream&, int64_t count, DType from_type, const void* from, DType to_type, void* to) override;
  void transpose(Stream&, int64_t batch, int64_t rows, int64_t columns, DType, const void* x,
                 void* y) override;
  void dropout(Stream&, int64_t rows, int64_t features, DType, double p, uint64_t key, const int64_t* row_ids,
               const void* x, void* y) override;

  // norm.cpp
  void batch_norm_forward(Stream&, const BatchNormShape&, DType, const void* x, const void* gamma,
                          const void* beta, const void* residual, double eps, void* y, void* mean, void* rstd,
                          void* variance) override;
  void batch_norm_backward(Stream&, const BatchNormShape&, DType, const void* dy, const void* x,
                           const void* y, const void* gamma, const void* mean, const void* rstd,
                           bool fixed_statistics, void* dx, void* dresidual, void* dgamma,
                           void* dbeta) override;
  void batch_norm_inference(Stream&, const BatchNormShape&, DType, const void* x, const void* scale,
                            const void* shift, const void* residual, void* y) override;
  void layer_norm_forward(Stream&, int64_t rows, int64_t features, DType, const void* x, const void* residual,
                          const void* gamma, const void* beta, double eps, void* sum, void* y, void* mean,
                          void* rstd) override;
  void layer_norm_backward(Stream&, int64_t rows, int64_t features, DType, const void* dy, const void* sum,
                           const void* gamma, const void* mean, const void* rstd, void* dx, void* dgamma,
                           void* dbeta) override;

  // attention.cpp
  void attention_forward(Stream&, const AttentionShape&, DType, const void* qkv, void* o,
                         void* logsumexp) override;
  void attention_backward(Stream&, const AttentionShape&, DType, const void* d_o, const void* qkv,
                          const void* o, const void* logsumexp, void* dqkv) override;
  void attention_divergence(Stream&, const AttentionPair&, DType, const void* teacher, const void* student,
                            void* loss, void* dstudent) override;
  void softmax(Stream&, int64_t rows, int64_t columns, DType, bool logarithm, const void* x,
               void* y) override;
  void softmax_backward(Stream&, int64_t rows, int64_t columns, DType, bool logarithm, const void* dy,
                        const void* y, void* dx) override;
  void embedding_forward(Stream&, int64_t rows, int64_t features, DType, const int32_t* ids,
                         const void* table, void* y) override;
  void embedding_backward(Stream&, int64_t rows, int64_t features, int64_t entries, DType, const int32_t* ids,
                          const void* dy, void* dtable) override;

  // loss.cpp
  void cross_entropy(Stream&, int64_t rows, int64_t classes, DType, const void* logits, const int32_t* labels,
                     double smoothing, void* loss, void* dlogits) override;
  void count_correct(Stream&, int64_t rows, int64_t classes, DType, const void* logits, const int32_t* labels,
                     int32_t* counts) override;
  void kl_divergence(Stream&, int64_t rows, int64_t classes, DType, const void* teacher, const void* student,
                     double temperature, void* loss, void* dstudent) override;
  void squared_error(Stream&, int64_t count, DType, const void* student, const void* target, double scale,
                     void* loss, void* dstudent) override;
  void imitation(Stream&, const ImitationShape&, DType, const void* t, const void* u, const void* h,
                 void* loss, void* dh) override;
  void imitation_free(Stream&, const ImitationShape&, DType, const void* t, const void* u, const void* h,
                      void* loss, void* dh, void* du) override;

  // pool.cpp
  void max_pool_forward(Stream&, const PoolShape&, DType, const void* x, void* y, uint8_t* winner) override;
  void max_pool_backward(Stream&, const PoolShape&, DType, const void* dy, const uint8_t* winner,
                         void* dx) override;
  void average_pool_forward(Stream&, int64_t n, int64_t pixels, int64_t c, DType, const void* x,
                            void* y) override;
  void average_pool_backward(Stream&, int64_t n, int64_t pixels, int64_t c, DType, const void* dy,
                             void* dx) override;

  // optimizer.cpp
  void sgd(Stream&, std::span<const Segment>, DType, const Sgd&, double gradient_scale, const void* gradient,
           void* momentum, void* parameter) override;
  void adamw(Stream&, std::span<const Segment>, DType, const AdamW&, double gradient_scale,
             const void* gradient, void* first_moment, void* second_moment, void* parameter) override;
  void lamb(Stream&, std::span<const Segment>, DType type, const Lamb&, double gradient_scale,
            const void* gradient, void* first_moment, void* second_moment, void* parameter) override;
  void sum_of_squares(Stream&, std::span<const Segment>, DType, const void* x, double* squares) override;

  // reference.cpp
  std::string name() const override { return "reference"; }
  std::map<std::string, std::string> versions() const override { return {}; }
  std::unique_ptr<Stream> make_stream(int threads) override;
};

namespace reference {

/// Throws Failure unless `type` is f64.
void require_double(DType type);
inline const double* in(const void* values) { return static_cast<const double*>(values); }
inline double* out(void* values) { return static_cast<double*>(values); }

double activation(Activation f, double x);
/// softmax(x) of `count` values, or its logarithm.
void softmax(int64_t count, bool logarithm, const double* x, double* y);

}  // namespace reference
}  // namespace taper
