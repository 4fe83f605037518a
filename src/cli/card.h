/* How a case is cut into segments on one device: as text, and as a picture. */
#ifndef GDN_CLI_CARD_H
#define GDN_CLI_CARD_H

#include "gdn_io.h"
#include "options.h"
#include "plan/host.h"

/* gdn plan without --ranks. Returns an exit code. */
int cli_plan_card(const cli_options *options, const gdn_io_case *c);

/* Time across multiprocessors of one forward, as SVG; written whole or not at all. Errors:
 * IO_ERROR, OUT_OF_MEMORY. */
gdn_status cli_card_picture(const gdni_plan *plan, const char *path);

#endif /* GDN_CLI_CARD_H */
