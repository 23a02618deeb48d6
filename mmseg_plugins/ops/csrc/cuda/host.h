// Host side of the CUDA operators: checks, workspace, launches. Uses PyTorch's stable ABI only, as of version 2.10.
// Memory comes from PyTorch's allocator on the current stream and nothing waits for the device, so every operator can be
// captured into a CUDA graph.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "sources.h"

#ifdef MMSEG_PLUGINS_EMULATION
#define MP_DISPATCH_KEY CPU
#else
#define MP_DISPATCH_KEY CUDA
#endif

namespace mmseg_plugins::cuda {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The device and stream on which an operator's kernels run, for as long as the operator runs.
class Device {
 public:
#ifdef MMSEG_PLUGINS_EMULATION
  explicit Device(const Tensor&) {}
#else
  explicit Device(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    const auto status = aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
    STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "no current CUDA stream on device ", tensor.get_device_index());
    stream_ = static_cast<cudaStream_t>(stream);
  }
#endif

  // Runs `kernel` on `blocks` blocks; nothing for none. Blocks are counted along x alone, which has room for 2^31 - 1.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) const {
    if (blocks <= 0) return;
    STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "too many blocks for one CUDA launch: ", blocks);
#ifdef MMSEG_PLUGINS_EMULATION
    emulation::run(dim3{static_cast<unsigned>(blocks), 1, 1}, static_cast<unsigned>(threads),
                   [&] { kernel(static_cast<Parameters>(arguments)...); });
#else
    kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), 0, stream_>>>(
        static_cast<Parameters>(arguments)...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
#endif
  }

 private:
#ifndef MMSEG_PLUGINS_EMULATION
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
#endif
};

inline Tensor empty_like_device(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  const std::vector<int64_t> shape(sizes);
  Tensor result = torch::stable::new_empty(like, IntHeaderOnlyArrayRef(shape.data(), shape.size()), type);
#ifdef MMSEG_PLUGINS_EMULATION
  // Memory that a kernel forgets to write must show.
  if (result.numel() > 0) std::memset(result.mutable_data_ptr(), 0x7F, result.numel() * (type == ScalarType::Long ? 8 : type == ScalarType::Float || type == ScalarType::Int ? 4 : type == ScalarType::Byte ? 1 : 2));
#endif
  return result;
}

inline Tensor zeros_like_device(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::new_zeros(like, IntHeaderOnlyArrayRef(shape.data(), shape.size()), type);
}

inline void check_axis(int64_t n_in, int64_t n_out, const char* what) {
  STD_TORCH_CHECK(n_in > 0 && n_out > 0, what, " must have at least one pixel, got ", n_in, " and ", n_out);
  STD_TORCH_CHECK(n_in == n_out || (n_in < (int64_t(1) << 30) && n_out < (int64_t(1) << 30) && n_in * n_out < (int64_t(1) << 30)),
                  what, " is too long to resize on CUDA: ", n_in, " -> ", n_out, ". Use impl=\"eager\".");
}

// Checks what index.h relies on: pixel counts fit 31 bits, and so does the product of the two lengths of a resized axis.
inline Grid checked_grid(int64_t height, int64_t width, int64_t mask_height, int64_t mask_width) {
  check_axis(mask_height, height, "height");
  check_axis(mask_width, width, "width");
  const int64_t limit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(height <= limit / width && mask_height <= limit / mask_width, "a map has more than 2^31 - 1 pixels");
  return Grid{static_cast<int>(height), static_cast<int>(width)};
}

// Features (B, C, H, W) seen as (B, C, N). Every layout whose pixels lie at one distance is used as it is, channels_last
// too; others (a crop, say) are copied.
struct Features {
  Tensor tensor;
  int64_t batch, channels, pixels, batch_stride, channel_stride, pixel_stride;

  explicit Features(const Tensor& given) : tensor(given) {
    STD_TORCH_CHECK(tensor.dim() == 4, "features must be (B, C, H, W), got ", tensor.dim(), " dimensions");
    const int64_t height = tensor.size(2), width = tensor.size(3);
    const bool even = height == 1 || width == 1 || tensor.stride(2) == width * tensor.stride(3);
    if (!even) tensor = torch::stable::contiguous(tensor);
    batch = tensor.size(0);
    channels = tensor.size(1);
    pixels = height * width;
    batch_stride = tensor.stride(0);
    channel_stride = tensor.stride(1);
    pixel_stride = width == 1 ? tensor.stride(2) : tensor.stride(3);
  }
};

// Calls `use(T{})` with the C++ type of a float tensor.
template <typename F>
void with_float_type(const Tensor& tensor, const char* what, F&& use) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return use(float{});
    case ScalarType::BFloat16: return use(BFloat16{});
    case ScalarType::Half: return use(Half{});
    default: STD_TORCH_CHECK(false, what, " must be float32, bfloat16 or float16 on CUDA. Use impl=\"eager\" for float64.");
  }
}

template <typename F>
void with_mask_type(const Tensor& tensor, F&& use) {
  const ScalarType type = tensor.scalar_type();
  if (type == ScalarType::Bool || type == ScalarType::Byte) return use(uint8_t{});
  with_float_type(tensor, "masks", std::forward<F>(use));
}

template <typename T>
MaskSource<T> mask_source(const Tensor& masks) {
  return MaskSource<T>{static_cast<const T*>(masks.const_data_ptr()), masks.size(1), masks.stride(0), masks.stride(1),
                       masks.stride(2), masks.stride(3), static_cast<int>(masks.size(2)), static_cast<int>(masks.size(3))};
}

inline Store store_type(ScalarType type) {
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "results on CUDA are float32, bfloat16 or float16. Use impl=\"eager\" for float64.");
  return type == ScalarType::Float ? Store::float32 : type == ScalarType::BFloat16 ? Store::bfloat16 : Store::float16;
}

inline Tensor as_float32(const Tensor& tensor) {
  const Tensor wide = tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
  return wide.is_contiguous() ? wide : torch::stable::contiguous(wide);
}

template <typename T>
T* written(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}
template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

}  // namespace mmseg_plugins::cuda
