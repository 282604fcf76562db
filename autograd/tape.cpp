#include "autograd/tape.h"

namespace taper {

Var Tape::record(Tensor value, bool needs_gradient, std::vector<const Parameter*> parameters,
                 std::function<void(const Tensor&)> backward) {
  auto result = std::make_shared<Variable>(Variable{std::move(value), {}, recording() && needs_gradient});
  if (result->needs_gradient) nodes_.push_back({result, std::move(parameters), std::move(backward)});
  return result;
}

void Tape::record_loss(std::function<void()> backward) {
  if (recording()) nodes_.push_back({nullptr, {}, [start = std::move(backward)](const Tensor&) { start(); }});
}

void Tape::accumulate(const Var& variable, Tensor dy) {
  if (!variable->needs_gradient) return;
  TAPER_CHECK(dy.size() == variable->value.size() && dy.dtype() == variable->value.dtype(),
              "the gradient of {} is {}", to_string(variable->value.shape()), to_string(dy.shape()));
  if (!variable->gradient.defined()) {
    variable->gradient = std::move(dy);
    return;
  }
  // A new tensor: the gradient that is there may be shared with another variable.
  Tensor sum(stream, dy.dtype(), variable->value.shape());
  backend.add(stream, dy.size(), dy.dtype(), variable->gradient.data(), dy.data(), sum.data());
  variable->gradient = std::move(sum);
}

void Tape::backward() {
  Pending pending;
  if (on_progress) {
    for (const Node& node : nodes_)
      for (const Parameter* p : node.parameters)
        if (trains(*p)) ++pending[p->offset];
    on_progress(pending);
  }
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    if (!node.output) {
      node.backward({});
      continue;
    }
    Tensor dy = std::move(node.output->gradient);
    node.output->gradient = {};
    if (dy.defined()) node.backward(dy);
    size_t before = pending.size();
    for (const Parameter* p : node.parameters)
      if (auto found = pending.find(p->offset); found != pending.end() && --found->second == 0)
        pending.erase(found);
    if (pending.size() != before) on_progress(pending);
  }
}

}  // namespace taper
