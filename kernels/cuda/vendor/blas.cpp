#include "kernels/cuda/vendor/blas.h"

namespace taper {

namespace {

// NVIDIA's advice for current GPUs.
constexpr int64_t kWorkspace = int64_t{32} << 20;

cudaDataType_t data_type(DType type) { return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

}  // namespace

VendorBlas::VendorBlas() : library_("libcublasLt.so.13", "matmul") {
  library_.find(create_, "cublasLtCreate");
  library_.find(destroy_, "cublasLtDestroy");
  library_.find(matmul_, "cublasLtMatmul");
  library_.find(heuristic_, "cublasLtMatmulAlgoGetHeuristic");
  library_.find(describe_product_, "cublasLtMatmulDescInit_internal");
  library_.find(set_product_, "cublasLtMatmulDescSetAttribute");
  library_.find(describe_matrix_, "cublasLtMatrixLayoutInit_internal");
  library_.find(set_matrix_, "cublasLtMatrixLayoutSetAttribute");
  library_.find(describe_preference_, "cublasLtMatmulPreferenceInit_internal");
  library_.find(set_preference_, "cublasLtMatmulPreferenceSetAttribute");
  library_.find(status_text_, "cublasLtGetStatusString");
  require(create_(&handle_), "cublasLtCreate");
}

VendorBlas::~VendorBlas() { destroy_(handle_); }

void VendorBlas::require(cublasStatus_t status, const char* call) const {
  TAPER_CHECK(status == CUBLAS_STATUS_SUCCESS, "{} failed: {}", call, status_text_(status));
}

// Everything is said of the transposed product, out^T = op(b)^T op(a)^T, because cuBLASLt's matrices have
// their columns contiguous.
bool VendorBlas::matmul(CudaStream& stream, const MatmulShape& s, DType type, bool tf32, const void* a,
                        const void* b, double scale, bool accumulate, DType out_type, void* out) {
  const auto compute = type == DType::f32 && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDescOpaque_t product;
  require(describe_product_(&product, sizeof product, compute, CUDA_R_32F), "cublasLtMatmulDescInit");
  auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t value = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    require(set_product_(&product, which, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a);

  auto matrix = [&](cublasLtMatrixLayoutOpaque_t& layout, DType of, int64_t rows, int64_t columns,
                    int64_t stride) {
    require(describe_matrix_(&layout, sizeof layout, data_type(of), static_cast<uint64_t>(rows),
                             static_cast<uint64_t>(columns), rows),
            "cublasLtMatrixLayoutInit");
    const auto batch = static_cast<int32_t>(s.batch);
    require(set_matrix_(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch),
            "cublasLtMatrixLayoutSetAttribute");
    require(set_matrix_(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride),
            "cublasLtMatrixLayoutSetAttribute");
  };
  cublasLtMatrixLayoutOpaque_t left, right, result;
  matrix(left, type, s.transpose_b ? s.k : s.n, s.transpose_b ? s.n : s.k, s.stride_b);
  matrix(right, type, s.transpose_a ? s.m : s.k, s.transpose_a ? s.k : s.m, s.stride_a);
  matrix(result, out_type, s.n, s.m, s.stride_out);

  const std::optional<cublasLtMatmulAlgo_t> algorithm = algorithm_for(
      product, left, right, result,
      fmt::format("{} {} {} {}{} {} {} {} {} {} {} {}", s.m, s.n, s.k, s.transpose_a, s.transpose_b, s.batch,
                  s.stride_a, s.stride_b, s.stride_out, name(type), name(out_type), tf32),
      {alignment(a), alignment(b), alignment(out)});
  if (!algorithm) return false;
  const auto alpha = static_cast<float>(scale), beta = accumulate ? 1.0f : 0.0f;
  require(matmul_(handle_, &product, &alpha, b, &left, a, &right, &beta, out, &result, out, &result,
                  &*algorithm, stream.scratch(kWorkspace), static_cast<size_t>(kWorkspace), stream.handle()),
          "cublasLtMatmul");
  return true;
}

uint32_t VendorBlas::alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

std::optional<cublasLtMatmulAlgo_t> VendorBlas::algorithm_for(cublasLtMatmulDescOpaque_t& product,
                                                              cublasLtMatrixLayoutOpaque_t& left,
                                                              cublasLtMatrixLayoutOpaque_t& right,
                                                              cublasLtMatrixLayoutOpaque_t& result,
                                                              const std::string& shape,
                                                              const Alignments& aligned) {
  const std::string key = fmt::format("{} {} {} {}", shape, aligned.a, aligned.b, aligned.out);
  std::lock_guard lock(mutex_);
  if (auto found = algorithms_.find(key); found != algorithms_.end()) return found->second;
  cublasLtMatmulPreferenceOpaque_t preference;
  require(describe_preference_(&preference, sizeof preference), "cublasLtMatmulPreferenceInit");
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    require(set_preference_(&preference, which, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
  // Parts of k are added in order; in place they would be added as they come.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned.b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned.a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned.out);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned.out);
  cublasLtMatmulHeuristicResult_t best;
  int count = 0;
  const cublasStatus_t status =
      heuristic_(handle_, &product, &left, &right, &result, &result, &preference, 1, &best, &count);
  std::optional<cublasLtMatmulAlgo_t>& algorithm = algorithms_[key];
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return algorithm;
  require(status, "cublasLtMatmulAlgoGetHeuristic");
  if (count > 0 && best.state == CUBLAS_STATUS_SUCCESS) algorithm = best.algo;
  return algorithm;
}

}  // namespace taper
