#pragma once
// cuBLASLt's matrix products.

#include <cublasLt.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "kernels/cuda/vendor/library.h"
#include "kernels/matmul.h"
#include "runtime/cuda/stream.h"

namespace taper {

class VendorBlas {
 public:
  VendorBlas();
  ~VendorBlas();
  VendorBlas(const VendorBlas&) = delete;
  VendorBlas& operator=(const VendorBlas&) = delete;
  /// As VendorKernels::matmul.
  bool matmul(CudaStream&, const MatmulShape&, DType type, bool tf32, const void* a, const void* b,
              double scale, bool accumulate, DType out_type, void* out);

 private:
  /// Largest powers of two that divide the addresses.
  struct Alignments {
    uint32_t a, b, out;
  };
  static uint32_t alignment(const void* pointer);
  void require(cublasStatus_t status, const char* call) const;
  /// What cuBLASLt's heuristics say; none where they have nothing.
  std::optional<cublasLtMatmulAlgo_t> algorithm_for(cublasLtMatmulDescOpaque_t& product,
                                                    cublasLtMatrixLayoutOpaque_t& left,
                                                    cublasLtMatrixLayoutOpaque_t& right,
                                                    cublasLtMatrixLayoutOpaque_t& result,
                                                    const std::string& shape, const Alignments&);

  Library library_;
  decltype(cublasLtCreate)* create_;
  decltype(cublasLtDestroy)* destroy_;
  decltype(cublasLtMatmul)* matmul_;
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic_;
  decltype(cublasLtMatmulDescInit_internal)* describe_product_;
  decltype(cublasLtMatmulDescSetAttribute)* set_product_;
  decltype(cublasLtMatrixLayoutInit_internal)* describe_matrix_;
  decltype(cublasLtMatrixLayoutSetAttribute)* set_matrix_;
  decltype(cublasLtMatmulPreferenceInit_internal)* describe_preference_;
  decltype(cublasLtMatmulPreferenceSetAttribute)* set_preference_;
  decltype(cublasLtGetStatusString)* status_text_;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, std::optional<cublasLtMatmulAlgo_t>> algorithms_;
};

}  // namespace taper
