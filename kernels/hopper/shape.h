// The one shape that the Hopper stages are made for.
#pragma once

namespace gdni {
namespace hopper {

constexpr int CHUNK_TOKENS = 64, HEAD_DIM = 128;
constexpr int TILE = 64 * 64 * 2; // bytes of 64 x 64 elements of bf16

} // namespace hopper
} // namespace gdni
