#pragma once
// The tensors of a network that outlive a step: parameters and batch-norm statistics, in flat buffers, with
// the copies derived from them.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/tensor.h"

namespace taper {

class ParameterStore;

/// What a tensor is for; decides initialisation, weight decay and the layout on disk.
enum class Role : uint8_t {
  filter,  ///< convolution, [k, r, s, c]; on disk [k, c, r, s]
  matrix,  ///< linear or bridge, [out, in]
  norm_weight,
  norm_bias,
  bias,
  running_mean,  ///< a statistic: not trained, moved once per step
  running_variance,
};

/// One named tensor. Its values are a slice of its store's flat buffer.
class Parameter {
 public:
  Parameter(ParameterStore& store, std::string name, Shape shape, Role role, int64_t offset)
      : name(std::move(name)),
        shape(std::move(shape)),
        role(role),
        offset(offset),
        size(elements(this->shape)),
        store_(store) {}

  const std::string name;
  const Shape shape;
  const Role role;
  const int64_t offset;  ///< elements, in the flat buffer of parameters or of statistics
  const int64_t size;
  bool trainable = true;
  double rate = 1;  ///< multiplies the optimizer's learning rate

  bool is_statistic() const { return role == Role::running_mean || role == Role::running_variance; }
  Tensor value() const;
  ParameterStore& store() const { return store_; }
  /// To be called, between steps, by whoever wrote the values: derived copies are then made anew when next
  /// asked for.
  void changed() { ++version_; }
  uint64_t version() const { return version_; }

 private:
  ParameterStore& store_;
  uint64_t version_ = 0;
};

/// Flat buffers for all of a network's parameters and statistics, and their derived copies: rounded to bf16,
/// packed for a backend, batch norm folded. A copy is made once per version and read by all workers.
class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  /// Appends a tensor; only before allocate(). Names are unique: Failure.
  Parameter& add(std::string name, Shape shape, Role role);
  /// Makes the flat buffers, zeroed, of accumulator(`type`).
  void allocate(Stream& stream, DType type);

  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  /// Null where there is none.
  Parameter* find(const std::string& name);
  const Tensor& values() const { return values_; }
  const Tensor& statistics() const { return statistics_; }
  int64_t value_size() const { return value_size_; }
  int64_t statistic_size() const { return statistic_size_; }
  /// Elements that are trained, as PyTorch counts parameters (statistics are not among them).
  int64_t parameter_count() const;

  using Make = std::function<Tensor(Stream&)>;
  /// The copy known as `key`, made by `make` unless it was made since its sources last changed. Thread-safe;
  /// the first to ask makes it. While `stream` is captured the copy must be there (Failure: a graph would
  /// make it anew at every launch), and stays at its place as long as the graph lives: it is then remade
  /// there, at every update.
  Tensor derived(Stream& stream, const std::string& key, std::vector<const Parameter*> sources,
                 const Make& make);
  /// The stale copies that were asked for since the last call, to be remade by remake() on any thread: so
  /// that workers share the packing of filters instead of waiting for each other. Those that graphs read
  /// count as asked for. Drops the stale copies that nobody asked for. A remade copy may be asked for by
  /// other streams once the Team's run that remade it is over.
  std::vector<std::string> stale();
  void remake(Stream& stream, const std::string& key);

 private:
  struct Copy {
    std::mutex mutex;
    std::vector<const Parameter*> sources;
    Make make;
    std::shared_ptr<Tensor> tensor;  // shared with the graphs that read it
    uint64_t stamp = 0;
    std::atomic<bool> used = true;
    uint64_t current() const;
    bool in_graphs() const { return tensor.use_count() > 1; }
    void remake(Stream& stream);
  };
  std::deque<Parameter> parameters_;
  std::unordered_map<std::string, Parameter*> by_name_;
  int64_t value_size_ = 0, statistic_size_ = 0;
  Tensor values_, statistics_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<Copy>> copies_;
};

}  // namespace taper
