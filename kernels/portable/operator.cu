// The portable backend's operator: lays out workspace and `saved`, then enqueues the stages.
//
//     forward            index, [normalise], prepare, [plan, exact, scan], forward chain, [padding];
//                        or one kernel in place of prepare and the chain, or of all but normalise
//     backward           index, [normalise], prepare unless saved, [plan, exact, scan], chains,
//                        gradients, [sum of the splits], [through the norm], [ends], [padding]
//     segment_forward    index, [normalise], prepare, chain of states of the last sequence;
//                        for M the same in fp32 with g = 0, V = K, S = I, v = 0
//     segment_backward   index, [normalise], prepare, chain of gradients of the first sequence
//
// Workspace, per token and v-head at C = 64 and 16-bit dtypes: 276 bytes of gate tables, inverse
// and scores (chunks that a sequence does not fill count in full); backward adds 4 K V / 64 + 4 V
// bytes for both chains' states and for D and E. Where sequences may be cut, the pools of exact
// states add (K V + K K) 4 bytes a border and head in forward, (2 K V + K K) 4 in backward.
//
// On Hopper backward's last stages overlap: chains, gradients, ends and padding each may start once
// the one before has, and wait for what they need of it.
#include "../guard.h"
#include "../hopper/backward.h"
#include "../launch.h"
#include "stages.h"
#include "tile.cuh"

#include <algorithm>
#include <type_traits>

namespace gdni {

namespace {

// Hands out pieces of a block of memory; without one it only counts.
class Arena {
  public:
    explicit Arena(void *base) : base_(static_cast<char *>(base)) {}
    template <typename X>
    X *take(int64_t count) {
        const size_t at = used_;
        used_ += (static_cast<size_t>(count) * sizeof(X) + 255) / 256 * 256;
        peak_ = std::max(peak_, used_);
        return base_ ? reinterpret_cast<X *>(base_ + at) : nullptr;
    }
    size_t mark() const {
        return used_;
    }
    void release(size_t mark) {
        used_ = mark;
    }
    size_t peak() const {
        return peak_;
    }

  private:
    char *base_;
    size_t used_ = 0, peak_ = 0;
};

enum class Call {
    FORWARD,
    BACKWARD,
    SEGMENT_FORWARD,
    SEGMENT_BACKWARD
};

#define GDNI_CUDA_TRY(call)                                                                        \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

template <typename T>
Tensor tensor(const void *data, const gdn_strides &s) {
    const auto whole = [](int64_t bytes) { return bytes % 16 == 0; };
    const int64_t size = sizeof(T);
    return {const_cast<void *>(data), s.token, s.head,
            whole(static_cast<int64_t>(reinterpret_cast<uintptr_t>(data))) &&
                whole(s.token * size) && whole(s.head * size)};
}

template <typename T>
Tensor dense(void *data, int heads, int dim) {
    return tensor<T>(data, {static_cast<int64_t>(heads) * dim, dim});
}

template <typename T>
class Operator {
  public:
    Operator(const gdni_cuda_device *device, const gdn_problem &p, const gdn_tensors &t, Call call)
        : p_(p), t_(t), call_(call), device_(), work_(t.workspace), saved_(t.saved), a_() {
        a_.g = static_cast<const float *>(t.g);
        a_.beta = static_cast<const float *>(t.beta);
        a_.cu_seqlens = t.cu_seqlens;
        a_.T = p.T, a_.N = p.N, a_.Hk = p.Hk, a_.Hv = p.Hv, a_.K = p.K, a_.V = p.V;
        a_.scale = static_cast<float>(p.scale);
        a_.sequences = p.N;
        a_.k = tensor<T>(t.k, p.k_strides);
        if (call != Call::SEGMENT_FORWARD)
            a_.q = tensor<T>(t.q, p.q_strides);
        if (call != Call::SEGMENT_BACKWARD)
            a_.v = tensor<T>(t.v, p.v_strides);
        device_ = {device->multiprocessors, device->capability, device->shared_memory};
        a_.multiprocessors = device->multiprocessors;
        a_.capability = device->capability;
        a_.shared_memory = device->shared_memory;
        upload_ = t.cu_seqlens && (p.flags & GDN_FLAG_CU_SEQLENS_HOST);
        norm_ = p.flags & GDN_FLAG_L2NORM_QK;
        layout();
    }

    size_t workspace() const {
        return work_.peak();
    }
    size_t saved() const {
        return saved_.peak();
    }
    const int32_t *item_count() const {
        return a_.item_count;
    }

    cudaError_t forward(cudaStream_t stream) {
        a_.o = tensor<T>(t_.o, p_.o_strides);
        a_.initial_state = static_cast<const float *>(t_.initial_state);
        a_.final_state = static_cast<float *>(t_.final_state);
        const bool queue = fused() && hopper::fused_queue_pays(a_);
        GDNI_CUDA_TRY(begin(stream, !queue));
        if (queue)
            return hopper::launch_fused_queue(a_, stream);
        if (fused()) {
            GDNI_CUDA_TRY(hopper::launch_fused(a_, stream));
            return padding(stream);
        }
        GDNI_CUDA_TRY(prepare(stream));
        GDNI_CUDA_TRY(plan(true, false, stream));
        GDNI_CUDA_TRY(forward_chain(stream));
        return padding(stream);
    }

    cudaError_t backward(cudaStream_t stream) {
        a_.do_ = tensor<T>(t_.do_, p_.o_strides);
        a_.dq = tensor<T>(t_.dq, p_.q_strides);
        a_.dk = tensor<T>(t_.dk, p_.k_strides);
        a_.dv = tensor<T>(t_.dv, p_.v_strides);
        a_.initial_state = static_cast<const float *>(t_.initial_state);
        a_.dht = static_cast<const float *>(t_.dht);
        a_.dh0 = static_cast<float *>(t_.dh0);
        if (!hopper_backward())
            a_.order = a_.arrivals = a_.next_group = nullptr;
        float *dg = static_cast<float *>(t_.dg), *dbeta = static_cast<float *>(t_.dbeta);
        GDNI_CUDA_TRY(begin(stream));
        if (!(p_.flags & GDN_FLAG_SAVE_INVERSE))
            GDNI_CUDA_TRY(prepare(stream));
        const bool states = !(p_.flags & GDN_FLAG_SAVE_STATES);
        GDNI_CUDA_TRY(plan(states, true, stream));
        a_.parts = (states ? 4 : 2) * (p_.Hv / p_.Hk);
        GDNI_CUDA_TRY(chains(states, true, stream));
        a_.dg = split_dg_ ? split_dg_ : dg;
        a_.dbeta = split_dg_ ? split_dbeta_ : dbeta;
        GDNI_CUDA_TRY(gradients(stream));
        if (split_dg_)
            GDNI_CUDA_TRY(
                launch_sum(dg, dbeta, split_dg_, split_dbeta_, p_.T * p_.Hv, splits(), stream));
        if (norm_) {
            GDNI_CUDA_TRY(launch_through_norm<T>(a_, tensor<T>(t_.q, p_.q_strides), p_.Hk, a_.dq32,
                                                 a_.dq, stream));
            GDNI_CUDA_TRY(launch_through_norm<T>(a_, tensor<T>(t_.k, p_.k_strides), p_.Hk, a_.dk32,
                                                 a_.dk, stream));
        }
        a_.dg = dg;
        a_.dbeta = dbeta;
        if constexpr (sizeof(T) == 2) {
            if (hopper_backward())
                a_.delta_grads = nullptr; // dv stands for it
            GDNI_CUDA_TRY(launch_ends<T>(a_, stream));
        }
        return padding(stream);
    }

    cudaError_t segment_forward(const gdn_segment &s, cudaStream_t stream) {
        a_.first_sequence = a_.first_stored = p_.N - 1;
        a_.sequences = 1;
        a_.initial_state = static_cast<const float *>(t_.initial_state);
        a_.final_state = static_cast<float *>(s.exit_state);
        GDNI_CUDA_TRY(begin(stream));
        if (s.exit_state) {
            GDNI_CUDA_TRY(prepare(stream));
            GDNI_CUDA_TRY(chains(true, false, stream));
        }
        if (s.log_decay || s.decay_bound)
            GDNI_CUDA_TRY(launch_decay<T>(a_, static_cast<float *>(s.log_decay),
                                          static_cast<float *>(s.decay_bound), stream));
        return s.transfer ? transfer(static_cast<float *>(s.transfer), stream) : cudaSuccess;
    }

    cudaError_t segment_backward(const gdn_segment &s, cudaStream_t stream) {
        a_.sequences = 1;
        a_.do_ = tensor<T>(t_.do_, p_.o_strides);
        a_.dht = static_cast<const float *>(t_.dht);
        a_.dh0 = static_cast<float *>(s.entry_gradient);
        GDNI_CUDA_TRY(begin(stream));
        GDNI_CUDA_TRY(prepare(stream));
        return chains(false, true, stream);
    }

  private:
    // Of `chains` chains an item, side by side.
    gdni_chain_shape shape(int chains) const {
        return gdni_chain_choose(&device_, &p_, a_.sequences * p_.Hv * chains,
                                 a_.plan.max_borders > 0, 1);
    }

    int splits() const {
        return (gdni_portable_padded(p_.K) + SPLIT<T> - 1) / SPLIT<T>;
    }

    // Chunk table, gate tables, inverses, scores for chunks of C tokens with elements X.
    template <typename X>
    void tiles(Arena &arena, bool scores) {
        constexpr int64_t C = CHUNK<X>;
        const int64_t count = a_.max_chunks * p_.Hv;
        a_.gates = arena.take<float>(count * GATE_ROWS * C);
        a_.inverse = arena.take<X>(count * C * C);
        a_.scores = scores ? arena.take<X>(count * C * C) : nullptr;
        a_.bounds = a_.plan.max_borders ? arena.take<float>(count) : nullptr;
    }

    template <typename X>
    void index() {
        a_.max_chunks = p_.T / CHUNK<X> + p_.N;
        a_.chunk_start = work_.take<int64_t>(p_.N + 1);
        a_.chunks = work_.take<Chunk>(a_.max_chunks);
        a_.max_items = (a_.sequences + a_.plan.max_borders) * p_.Hv;
        a_.items = work_.take<gdni_work_item>(a_.max_items);
        a_.item_count = work_.take<int32_t>(1);
    }

    void plan_layout(bool states, bool gradients) {
        const int64_t slots = a_.plan.max_borders * p_.Hv, KV = p_.K * p_.V;
        if (slots == 0)
            return;
        a_.segment_start = work_.take<int64_t>(p_.N + 1);
        a_.tasks = work_.take<int32_t>(TASKS * slots);
        a_.task_count = work_.take<int32_t>(1);
        a_.narrow = work_.take<int32_t>(1);
        a_.pool_states = states ? work_.take<float>(slots * KV) : nullptr;
        a_.pool_grads = gradients ? work_.take<float>(slots * KV) : nullptr;
        a_.pool_transfer = work_.take<float>(slots * p_.K * p_.K);
    }

    void layout() {
        constexpr int64_t C = CHUNK<T>;
        const bool backward = call_ == Call::BACKWARD, forward = call_ == Call::FORWARD;
        const bool operator_call = forward || backward;
        if (upload_)
            cu_ = work_.take<int64_t>(p_.N + 1);
        const int64_t keys = p_.T * p_.Hk * p_.K;
        if (norm_) {
            q_normed_ = a_.q.data || !t_.k ? work_.take<T>(keys) : nullptr;
            k_normed_ = work_.take<T>(keys);
        }
        segment_mark_ = work_.mark();
        a_.plan.max_borders = operator_call
                                  ? gdni_plan_max_borders(&device_, &p_, t_.cu_seqlens != nullptr,
                                                          backward, &a_.plan.shortest)
                                  : 0;
        a_.plan.segments = a_.plan.max_borders ? p_.segments : 1;
        index<T>();
        const int64_t count = a_.max_chunks * p_.Hv;
        const bool save_inverse = operator_call && (p_.flags & GDN_FLAG_SAVE_INVERSE);
        const bool save_states = operator_call && (p_.flags & GDN_FLAG_SAVE_STATES);
        tiles<T>(save_inverse ? saved_ : work_, true);
        plan_layout(!backward || !save_states, backward);
        if (save_states || backward) {
            Arena &arena = save_states ? saved_ : work_;
            a_.states = arena.template take<T>(count * p_.K * p_.V);
            a_.delta = arena.template take<T>(count * C * p_.V);
        }
        if (backward) {
            a_.state_grads = work_.take<T>(count * p_.K * p_.V);
            a_.delta_grads = work_.take<T>(count * C * p_.V);
            a_.order = work_.take<int32_t>(a_.max_chunks);
            a_.arrivals = work_.take<int32_t>(a_.max_chunks * p_.Hk);
            a_.next_group = work_.take<int32_t>(1);
            if (norm_) {
                a_.dq32 = work_.take<float>(keys);
                a_.dk32 = work_.take<float>(keys);
            }
            if (splits() > 1) {
                split_dg_ = work_.take<float>(splits() * p_.T * p_.Hv);
                split_dbeta_ = work_.take<float>(splits() * p_.T * p_.Hv);
            }
        }
        if (call_ == Call::SEGMENT_FORWARD) { // what transfer() takes instead of the above
            const Arguments kept = a_;
            transfer_layout();
            a_ = kept;
        }
    }

    float *transfer_layout() {
        work_.release(segment_mark_);
        float *keys = work_.take<float>(p_.T * p_.Hk * p_.K);
        index<float>();
        tiles<float>(work_, false);
        return keys;
    }

    cudaError_t begin(cudaStream_t stream, bool index = true) {
        if (upload_) {
            GDNI_CUDA_TRY(launch_upload(cu_, t_.cu_seqlens, p_.N + 1, stream));
            a_.cu_seqlens = cu_;
        }
        if (norm_) {
            if (a_.q.data) {
                GDNI_CUDA_TRY(launch_normalise<T>(a_, a_.q, p_.Hk, q_normed_, stream));
                a_.q = dense<T>(q_normed_, p_.Hk, p_.K);
            }
            GDNI_CUDA_TRY(launch_normalise<T>(a_, a_.k, p_.Hk, k_normed_, stream));
            a_.k = dense<T>(k_normed_, p_.Hk, p_.K);
        }
        return index ? launch_index(a_, CHUNK<T>, stream) : cudaSuccess;
    }

    bool hopper_backward() const {
        return std::is_same_v<T, bf16> && hopper::backward_applies(a_);
    }

    // Whether one kernel does the whole forward: nothing to keep, nothing to cut, and enough heads
    // that memory or multiprocessors would run out (kernels/hopper/README.md).
    bool fused() const {
        return std::is_same_v<T, bf16> && hopper::applies(a_) && hopper::fused_pays(a_) &&
               !a_.plan.max_borders && !(p_.flags & (GDN_FLAG_SAVE_INVERSE | GDN_FLAG_SAVE_STATES));
    }

    // The stages that have a Hopper version.
    cudaError_t prepare(cudaStream_t stream) {
        if (std::is_same_v<T, bf16> && hopper::applies(a_))
            return hopper::launch_prepare(
                a_, call_ != Call::FORWARD || (p_.flags & GDN_FLAG_SAVE_INVERSE), stream);
        return launch_prepare<T>(a_, stream);
    }

    cudaError_t forward_chain(cudaStream_t stream) {
        if (std::is_same_v<T, bf16> && hopper::applies(a_))
            return hopper::launch_forward(a_, stream);
        return launch_forward<T>(a_, shape(1), stream);
    }

    // The backward's two go together.
    cudaError_t chains(bool states, bool gradients, cudaStream_t stream) {
        if (hopper_backward())
            return hopper::launch_chains(a_, states, gradients, stream);
        return launch_chains<T>(a_, shape(states + gradients), states, gradients, stream);
    }

    cudaError_t gradients(cudaStream_t stream) {
        if (hopper_backward())
            return hopper::launch_gradients(a_, stream);
        return launch_gradients<T>(a_, stream);
    }

    cudaError_t exact(bool states, bool gradients, cudaStream_t stream) {
        if (!hopper_backward())
            return launch_exact<T>(a_, gdni_chain_exact(&device_, &p_), states, gradients, stream);
        const cudaError_t error = hopper::launch_exact(a_, states, stream);
        return error == cudaSuccess && gradients ? hopper::launch_exact_gradients(a_, stream)
                                                 : error;
    }

    cudaError_t scan(bool states, bool gradients, cudaStream_t stream) {
        if (std::is_same_v<T, bf16> && hopper::applies(a_))
            return hopper::launch_scan(a_, states, gradients, stream);
        return launch_scan(a_, states, gradients, stream);
    }

    // Cuts the sequences, where that may pay, and finds the exact states at the borders.
    cudaError_t plan(bool states, bool gradients, cudaStream_t stream) {
        if (!a_.plan.max_borders)
            return cudaSuccess;
        a_.plan.N = p_.N;
        a_.plan.Hv = p_.Hv;
        a_.plan.threshold = gdni_plan_threshold(&p_);
        a_.plan.model = gdni_plan_model_of(&device_, &p_, call_ == Call::BACKWARD);
        GDNI_CUDA_TRY(launch_plan(a_, stream));
        GDNI_CUDA_TRY(exact(states, gradients, stream));
        return scan(states, gradients, stream);
    }

    cudaError_t padding(cudaStream_t stream) {
        return a_.cu_seqlens ? launch_padding<T>(a_, stream) : cudaSuccess;
    }

    // M: increments in fp32, gates left out.
    cudaError_t transfer(float *to, cudaStream_t stream) {
        float *keys = transfer_layout();
        GDNI_CUDA_TRY(
            launch_widen<T>(a_, tensor<T>(t_.k, p_.k_strides), p_.Hk, norm_, keys, stream));
        a_.k = dense<float>(keys, p_.Hk, p_.K);
        a_.v = {};
        a_.V = p_.K;
        a_.gateless = a_.identity = true;
        a_.initial_state = nullptr;
        a_.final_state = to;
        GDNI_CUDA_TRY(launch_index(a_, CHUNK<float>, stream));
        GDNI_CUDA_TRY(launch_prepare<float>(a_, stream));
        gdn_problem p = p_;
        p.dtype = GDN_DTYPE_FP32;
        p.V = p.K;
        return launch_chains<float>(a_, gdni_chain_choose(&device_, &p, p.Hv, 0, 0), true, false,
                                    stream);
    }

    const gdn_problem &p_;
    const gdn_tensors &t_;
    Call call_;
    gdni_plan_device device_;
    Arena work_, saved_;
    Arguments a_;
    bool upload_ = false, norm_ = false;
    int64_t *cu_ = nullptr;
    T *q_normed_ = nullptr, *k_normed_ = nullptr;
    float *split_dg_ = nullptr, *split_dbeta_ = nullptr;
    size_t segment_mark_ = 0;
};

template <typename T>
cudaError_t run(const gdni_cuda_device *device, const gdn_problem &p, const gdn_tensors &t,
                const gdn_segment *segment, Call call, cudaStream_t stream) {
    Operator<T> op(device, p, t, call);
    switch (call) {
    case Call::FORWARD:
        return op.forward(stream);
    case Call::BACKWARD:
        return op.backward(stream);
    case Call::SEGMENT_FORWARD:
        return op.segment_forward(*segment, stream);
    case Call::SEGMENT_BACKWARD:
        return op.segment_backward(*segment, stream);
    }
    return cudaErrorInvalidValue;
}

int dispatch(const gdni_cuda_device *device, const gdn_problem *p, const gdn_tensors *t,
             const gdn_segment *segment, Call call, void *stream) {
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaStream_t s = static_cast<cudaStream_t>(stream);
    return p->dtype == GDN_DTYPE_BF16   ? run<bf16>(device, *p, *t, segment, call, s)
           : p->dtype == GDN_DTYPE_FP16 ? run<fp16>(device, *p, *t, segment, call, s)
                                        : run<float>(device, *p, *t, segment, call, s);
}

template <typename T>
void sizes(const gdni_cuda_device *device, const gdn_problem &p, gdn_sizes &s) {
    // cu_seqlens on the host take memory: count them wherever the flag is set.
    gdn_tensors t = GDN_TENSORS_INIT;
    static const int64_t some = 0;
    t.cu_seqlens = &some;
    const Operator<T> forward(device, p, t, Call::FORWARD), backward(device, p, t, Call::BACKWARD);
    const Operator<T> segment(device, p, t, Call::SEGMENT_FORWARD);
    s.forward_workspace = forward.workspace();
    s.backward_workspace = backward.workspace();
    s.segment_workspace = segment.workspace();
    s.saved = forward.saved();
}

} // namespace

} // namespace gdni

extern "C" {

void gdni_portable_sizes(const gdni_cuda_device *device, const gdn_problem *problem,
                         gdn_sizes *sizes) {
    if (problem->dtype == GDN_DTYPE_FP32)
        gdni::sizes<float>(device, *problem, *sizes);
    else
        gdni::sizes<gdni::bf16>(device, *problem, *sizes);
}

const int32_t *gdni_portable_item_count(const gdni_cuda_device *device, const gdn_problem *problem,
                                        const gdn_tensors *tensors, int backward) {
    const gdni::Call call = backward ? gdni::Call::BACKWARD : gdni::Call::FORWARD;
    return problem->dtype == GDN_DTYPE_FP32
               ? gdni::Operator<float>(device, *problem, *tensors, call).item_count()
               : gdni::Operator<gdni::bf16>(device, *problem, *tensors, call).item_count();
}

size_t gdni_portable_shared_memory(const gdn_problem *problem) {
    return problem->dtype == GDN_DTYPE_FP32 ? gdni::gradients_shared_memory<float>(problem->K)
                                            : gdni::gradients_shared_memory<gdni::bf16>(problem->K);
}

int gdni_portable_forward(const gdni_cuda_device *device, const gdn_problem *problem,
                          const gdn_tensors *tensors, void *stream) {
    return gdni::dispatch(device, problem, tensors, nullptr, gdni::Call::FORWARD, stream);
}

int gdni_portable_backward(const gdni_cuda_device *device, const gdn_problem *problem,
                           const gdn_tensors *tensors, void *stream) {
    return gdni::dispatch(device, problem, tensors, nullptr, gdni::Call::BACKWARD, stream);
}

int gdni_portable_segment_forward(const gdni_cuda_device *device, const gdn_problem *problem,
                                  const gdn_tensors *tensors, const gdn_segment *segment,
                                  void *stream) {
    return gdni::dispatch(device, problem, tensors, segment, gdni::Call::SEGMENT_FORWARD, stream);
}

int gdni_portable_segment_backward(const gdni_cuda_device *device, const gdn_problem *problem,
                                   const gdn_tensors *tensors, const gdn_segment *segment,
                                   void *stream) {
    return gdni::dispatch(device, problem, tensors, segment, gdni::Call::SEGMENT_BACKWARD, stream);
}

} // extern "C"
