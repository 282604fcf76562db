#pragma once
// The networks of a run: what the configuration makes of them, and their tensors for checkpoints and exports.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "layers/bert.h"
#include "layers/bridge.h"
#include "layers/network.h"
#include "layers/weights.h"
#include "recipes/config.h"
#include "recipes/data.h"
#include "runtime/communicator.h"

namespace taper {

/// The backend, its workers, and the other ranks. The machine decides how many shards run at once; the bits
/// do not depend on it.
struct Engine {
  explicit Engine(const Configuration& configuration, Communicator& ranks = only_rank())
      : Engine(configuration, configuration.device, ranks) {}
  /// On another device than the configuration's. UserError where this build or machine has it not.
  Engine(const Configuration& configuration, const std::string& device, Communicator& ranks = only_rank());
  /// What "auto" chose so far.
  std::shared_ptr<ProviderChoices> choices = std::make_shared<ProviderChoices>();
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> connected;  ///< the ranks by way of their devices, where these have one
  DType type;                               ///< of activations
  int64_t shards;
  Communicator& ranks;  ///< that share the shards, and this machine's cores
  std::unique_ptr<Team> team;
};

/// The BERT as configured, for such text, or the same `widened`.
BertSpec bert_spec(const Configuration& configuration, const DataFacts& data, bool widened);
/// The thin network as configured, for such data, or the same `widened`: shapes and names only, no memory.
std::unique_ptr<Network> make_network(const Configuration& configuration, const DataFacts& data,
                                      bool widened);

/// The thin network, not allocated yet, in units and with bridges as configured.
BridgedNetwork make_bridged(const Configuration& configuration, Network& thin, const Network& wide);

/// A network of a run and what it has cost so far.
struct Model {
  std::unique_ptr<Network> network;
  std::unique_ptr<BridgedNetwork> bridged;
  double training_flops = 0;  ///< spent on training it
  double teacher_flops = 0;   ///< spent on running the wide network beside it
};

/// What "baseline", "wide" and "thin" are; each is made when its first stage begins or when a checkpoint
/// holds it.
class Models {
 public:
  Models(const Configuration& configuration, Engine& engine, const DataFacts& data)
      : configuration_(configuration), engine_(engine), data_(data) {}

  bool has(const std::string& name) const { return models_.contains(name); }
  Model& operator[](const std::string& name);
  /// Those that exist, in the order baseline, wide, thin.
  std::vector<std::string> names() const;
  /// Makes a network with its initial weights (Philox, by the run's seed, the same for baseline and thin).
  /// `bridged`: thin has the bridges that imitation needs; needs wide.
  Model& make(const std::string& name, bool bridged);
  /// Replaces the bridged thin network by the merged one.
  void merge();
  /// What a network costs as deployed, bridges merged, for a sample: stem, blocks, head. It need not exist.
  std::vector<Cost> costs(const std::string& name) const;

  /// The tensors of every network, or of `only` one, each named "<network>.<tensor>".
  HostTensors save(const std::string& only = "") const;
  /// Makes and sets the networks that a checkpoint's weights hold (or `only` one); `shown` names the
  /// checkpoint in errors. `merged`: its thin network has no bridges any more.
  void load(const SafetensorsFile& weights, const std::string& shown, bool merged,
            const std::string& only = "");

 private:
  const Configuration& configuration_;
  Engine& engine_;
  DataFacts data_;
  std::map<std::string, Model> models_;
};

/// Whether `name` ("layer1.0.conv1.weight") belongs to the part `prefix` ("layer1.0").
bool belongs(const std::string& name, const std::string& prefix);

/// Layer-wise decay of the learning rate, as timm's layer_decay: 1 for the head, `decay` for the last block,
/// and so on down to decay^(blocks + 1) for the stem; 1 for bridges.
void set_layer_rates(Network& network, double decay);

}  // namespace taper
