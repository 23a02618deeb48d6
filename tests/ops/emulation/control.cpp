// Lets a test choose in which order the emulator runs the threads of a block.
#include "cuda_emulation.h"

extern "C" __attribute__((visibility("default"))) void emulation_order(int order) {
  emulation::machine().order = static_cast<emulation::Order>(order);
}
