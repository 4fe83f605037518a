// The same headers from C++17.
#include <gdn.h>
#include <gdn_check.h>
#include <gdn_io.h>
#include <gdn_layer.h>
#include <gdn_model.h>

#include <cstdio>
#include <memory>

int main() {
    gdn_context *raw = nullptr;
    if (gdn_context_create(&raw, nullptr) != GDN_STATUS_OK) {
        std::fprintf(stderr, "%s\n", gdn_last_error());
        return 1;
    }
    const std::unique_ptr<gdn_context, decltype(&gdn_context_destroy)> context(raw,
                                                                               gdn_context_destroy);
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    problem.T = 64;
    if (gdn_problem_sizes(context.get(), &problem, &sizes) != GDN_STATUS_OK) {
        std::fprintf(stderr, "%s\n", gdn_last_error());
        return 1;
    }
    gdn_io_kind kind;
    if (gdn_io_file_kind("/nonexistent.h5", &kind) == GDN_STATUS_OK)
        return 1;
    std::printf("libgdn %u from C++: %zu bytes of workspace\n", gdn_version(),
                sizes.backward_workspace);
    return 0;
}
