#include "autograd/parameter.h"

namespace taper {

namespace {
// Each tensor starts on a cache line, so that workers never share one and vector loads are aligned.
constexpr int64_t kAlignment = 16;
}  // namespace

Tensor Parameter::value() const {
  const Tensor& flat = is_statistic() ? store_.statistics() : store_.values();
  return flat.slice(offset, size).view(shape);
}

Parameter& ParameterStore::add(std::string name, Shape shape, Role role) {
  TAPER_CHECK(!values_.defined(), "{} added after allocate()", name);
  TAPER_CHECK(!by_name_.contains(name), "two tensors are named {}", name);
  bool statistic = role == Role::running_mean || role == Role::running_variance;
  int64_t& end = statistic ? statistic_size_ : value_size_;
  Parameter& added = parameters_.emplace_back(*this, name, std::move(shape), role, end);
  added.trainable = !statistic;
  end += (added.size + kAlignment - 1) / kAlignment * kAlignment;
  by_name_[std::move(name)] = &added;
  return added;
}

void ParameterStore::allocate(Stream& stream, DType type) {
  values_ = Tensor::zeros(stream, accumulator(type), {value_size_});
  statistics_ = Tensor::zeros(stream, accumulator(type), {statistic_size_});
}

Parameter* ParameterStore::find(const std::string& name) {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

int64_t ParameterStore::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_)
    if (!p.is_statistic()) count += p.size;
  return count;
}

uint64_t ParameterStore::Copy::current() const {
  uint64_t sum = 1;  // versions only grow, so their sum tells whether any has changed; 0 is "never made"
  for (const Parameter* source : sources) sum += source->version();
  return sum;
}

void ParameterStore::Copy::remake(Stream& stream) {
  Tensor made = make(stream);
  if (in_graphs()) {
    TAPER_CHECK(made.bytes() == tensor->bytes(), "a copy of {} bytes for a graph that reads {}", made.bytes(),
                tensor->bytes());
    stream.copy(tensor->data(), made.data(), made.bytes());
  } else {
    tensor = std::make_shared<Tensor>(std::move(made));
  }
  stamp = current();
}

Tensor ParameterStore::derived(Stream& stream, const std::string& key, std::vector<const Parameter*> sources,
                               const Make& make) {
  std::shared_ptr<Copy> copy;
  {
    std::lock_guard lock(mutex_);
    auto& slot = copies_[key];
    if (!slot) {
      slot = std::make_shared<Copy>();
      slot->sources = std::move(sources);
      slot->make = make;
    }
    copy = slot;
  }
  std::lock_guard lock(copy->mutex);
  copy->used = true;
  if (copy->stamp != copy->current()) {
    TAPER_CHECK(!stream.capturing(), "{} has to be made anew while a graph is captured", key);
    copy->remake(stream);
    stream.synchronize();  // other workers' streams may read it from now on
  }
  if (stream.capturing()) stream.keep(copy->tensor);
  return *copy->tensor;
}

std::vector<std::string> ParameterStore::stale() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  for (auto it = copies_.begin(); it != copies_.end();) {
    Copy& copy = *it->second;
    bool stale = copy.stamp != copy.current();
    if (stale && !copy.used && !copy.in_graphs()) {
      it = copies_.erase(it);
      continue;
    }
    if (stale) keys.push_back(it->first);
    copy.used = false;
    ++it;
  }
  return keys;
}

void ParameterStore::remake(Stream& stream, const std::string& key) {
  std::shared_ptr<Copy> copy;
  {
    std::lock_guard lock(mutex_);
    auto found = copies_.find(key);
    if (found == copies_.end()) return;
    copy = found->second;
  }
  std::lock_guard lock(copy->mutex);
  if (copy->stamp != copy->current()) copy->remake(stream);
}

}  // namespace taper
