#pragma once
// Image files in one folder per class, as torchvision's ImageFolder reads them.

#include <memory>
#include <string>

#include "recipes/data/dataset.h"

namespace taper {

std::unique_ptr<Dataset> open_folder(const std::string& root, Split split, int channels);

}  // namespace taper
