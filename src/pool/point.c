#include "pool/point.h"

void (*mh__point_hook)(const char *name);
