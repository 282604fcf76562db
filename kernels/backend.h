#pragma once
// Every op's contract, gathered: a backend implements all of them for one kind of device.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/loss.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/pool.h"
#include "kernels/providers.h"
#include "runtime/communicator.h"

namespace taper {

/// Contracts common to all ops: pointers are the device's and dense; sizes are checked by the caller's
/// tensors; outputs do not overlap inputs unless the contract says that they may; the same arguments give the
/// same bits on the same device model, instruction set and library versions, whatever else runs beside; a NaN
/// or infinity in an input reaches the outputs that depend on it. `type` is the activations' type: f32 or
/// bf16 (f64 only on the reference). "Accumulator type" is accumulator(type). Several threads may call one
/// backend at once, each with its own stream.
class Backend : public ConvKernels,
                public MatmulKernels,
                public ElementwiseKernels,
                public NormKernels,
                public AttentionKernels,
                public LossKernels,
                public PoolKernels,
                public OptimizerKernels {
 public:
  /// "cpu", "sim", "cuda", "reference".
  virtual std::string name() const = 0;
  /// What decides the bits beside the code: instruction set and library versions, for the run's log and
  /// identity.
  virtual std::map<std::string, std::string> versions() const = 0;
  /// A queue for one worker. `threads` CPU threads work inside each op; call it, and use the stream, on one
  /// thread.
  virtual std::unique_ptr<Stream> make_stream(int threads) = 0;
  /// The same ranks, whose exchange_tensors() goes from device to device; null where the devices have no such
  /// way, or there is one rank. All ranks call it, once; `ranks` outlives the result.
  virtual std::unique_ptr<Communicator> connect(Communicator& /*ranks*/) { return nullptr; }
};

/// How and where a backend computes, beyond what an op's arguments say.
struct BackendOptions {
  /// Whether the CUDA backend makes matrix products, convolutions and imitation's projection of f32 operands
  /// on tensor cores: each operand is rounded to tf32 (10 mantissa bits, ties away from zero; what is within
  /// half a unit of 2^128 becomes infinite), products are exact, sums f32. Operands and results are f32 in
  /// memory as ever; all other ops, attention among them, compute in f32.
  bool tf32 = false;
  /// The rank that it is for: each on a machine has a GPU of its own.
  RankPlace place = {};
  /// On the device cuda; others have their own kernels only.
  Provider matmul = Provider::own, convolution = Provider::own;
  /// Where Provider::automatic looks for its choices and leaves new ones; null: in a table of the backend's
  /// own.
  std::shared_ptr<ProviderChoices> choices = nullptr;
};

/// oneDNN and vectorised loops; f32 and bf16.
std::unique_ptr<Backend> make_cpu_backend();

/// The hand-written CUDA kernels, on the GPU whose number is the rank's on its machine, or on the CPU by
/// runtime/simt, whichever the build has (cuda_device()); f32 and bf16. UserError, which offers another
/// device, where the build has neither, or there is no GPU that it can use, or not one for each rank.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options = {});

/// "cuda" in a build for GPUs, "sim" in one with runtime/simt, "" in one without CUDA kernels.
std::string cuda_device();

/// The backend of the device called `name`: "cpu", "sim" or "cuda". UserError, which says how to come by it
/// and what there is, for a device that this build has not, or options that the device has not.
std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options = {});

/// What make_backend() knows in this build.
std::vector<std::string> devices();

/// Plain loops in double: the definition of every op, for tests. Accepts f64 only.
std::unique_ptr<Backend> make_reference_backend();

}  // namespace taper
