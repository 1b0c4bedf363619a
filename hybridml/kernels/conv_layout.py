"""The argument block of the convolution kernels: which word says what. Strides of images count elements."""

TILED = 0  # the address of the generated matrix product
TEMPLATE = 1  # and of an argument block for it, of so many words
TEMPLATE_WORDS = 2
X = 3  # images
W = 4  # filters
G = 5  # what lies over the windows: results, or their gradient
HEIGHT, WIDTH = 6, 7
X_IMAGE, X_ROW, X_COLUMN = 8, 9, 10
OUT_HEIGHT, OUT_WIDTH = 11, 12
TAPS_DOWN, TAPS_ACROSS = 13, 14
STRIDE_DOWN, STRIDE_ACROSS = 15, 16
DILATION_DOWN, DILATION_ACROSS = 17, 18
TOP, LEFT = 19, 20  # padding
GROUPS = 21
CHANNELS = 22  # of one group
FILTERS = 23  # of one group
BLOCK_WINDOWS, BLOCK_TAPS, BLOCK_CHANNELS = 24, 25, 26  # what a panel holds
BY_TAP = 27  # whether its rows are taps rather than windows
ROWS = 28  # rows of windows over all images
PARTS = 29  # partial sums of the filters' gradient
EPILOGUE = (
    30  # a kernel for each block of results, its argument block, and whether blocks are alone; see `epilogue`
)
EPILOGUE_ARGS = 31
BLOCK_ALONE = 32
TILE_EPILOGUE = 33  # a function for each register tile of results, in place of the kernel; whether others want the results then
KEEP = 34
WORDS = 35

PANEL_BYTES = (
    73728  # 64 windows of 256 elements of four bytes and a vector's room: it stays in a second-level cache
)
BLOCK_BYTES = 131072  # of a block of results that nobody wants but its epilogue
PANEL_SLACK = 64  # a vector may be written beyond the last row
