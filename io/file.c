#include "gdn_io.h"
