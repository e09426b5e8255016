"""The TFLite flatbuffer schema as data: which slot of which table holds what. Source: TensorFlow's schema.fbs (v3).

A field is ``name:kind[=default]`` in slot order; ``-`` is a slot that we neither read nor write. Kinds: a ``struct``
character for a scalar, ``s`` string, ``[i`` vector of scalars, ``Table`` and ``[Table`` references. A union is a
``u`` field whose type is read from the slot before it; ``@`` is where a table lies, for who knows its type. The tests
compare this table with the generated module that ships with ai-edge-litert.
"""

from typing import NamedTuple


class Field(NamedTuple):
    """One slot of a table."""

    name: str
    kind: str
    default: float


_CORE = """
Model version:I=3 operator_codes:[OperatorCode subgraphs:[SubGraph description:s buffers:[Buffer - - \
signature_defs:[SignatureDef;
OperatorCode deprecated_builtin_code:b custom_code:s version:i=1 builtin_code:i;
SubGraph tensors:[Tensor inputs:[i outputs:[i operators:[Operator name:s;
Tensor shape:[i type:b buffer:I name:s quantization:Quantization is_variable:? sparsity:Sparsity shape_signature:[i has_rank:?;
Sparsity traversal_order:[i block_map:[i dim_metadata:[DimensionMetadata;
DimensionMetadata format:b dense_size:i array_segments_type:B array_segments:u array_indices_type:B array_indices:u;
Int32Vector values:[i; Uint16Vector values:[H; Uint8Vector values:[B;
Quantization min:[f max:[f scale:[f zero_point:[q details_type:B details:Opaque quantized_dimension:i;
Operator opcode_index:I inputs:[i outputs:[i builtin_options_type:B builtin_options:u custom_options:[B \
custom_options_format:b - intermediates:[i - - builtin_options_2_type:B;
Buffer data:[B offset:Q size:Q;
SignatureDef inputs:[TensorMap outputs:[TensorMap signature_key:s - subgraph_index:I;
TensorMap name:s tensor_index:I;
Opaque
"""

_OPTIONS = """
Conv2D padding:b stride_w:i stride_h:i fused_activation_function:b dilation_w_factor:i=1 dilation_h_factor:i=1 \
quantized_bias_type:b;
DepthwiseConv2D padding:b stride_w:i stride_h:i depth_multiplier:i fused_activation_function:b dilation_w_factor:i=1 \
dilation_h_factor:i=1;
ConcatEmbeddings num_channels:i num_columns_per_channel:[i embedding_dim_per_channel:[i;  LSHProjection type:b;
Pool2D padding:b stride_w:i stride_h:i filter_width:i filter_height:i fused_activation_function:b;
SVDF rank:i fused_activation_function:b asymmetric_quantize_inputs:?;
RNN fused_activation_function:b asymmetric_quantize_inputs:?;
FullyConnected fused_activation_function:b weights_format:b keep_num_dims:? asymmetric_quantize_inputs:? \
quantized_bias_type:b -;
Softmax beta:f;  Concatenation axis:i fused_activation_function:b;
Add fused_activation_function:b pot_scale_int16:?=1;  L2Norm fused_activation_function:b;
LocalResponseNormalization radius:i bias:f alpha:f beta:f;
LSTM fused_activation_function:b cell_clip:f proj_clip:f kernel_type:b asymmetric_quantize_inputs:?;
ResizeBilinear - - align_corners:? half_pixel_centers:?;  Call subgraph:I;  Reshape new_shape:[i;
SkipGram ngram_size:i max_skip_size:i include_all_ngrams:?;  SpaceToDepth block_size:i;
EmbeddingLookupSparse combiner:b;  Mul fused_activation_function:b;  Pad;  Gather axis:i batch_dims:i;
BatchToSpaceND;  SpaceToBatchND;  Transpose;  Reducer keep_dims:?;
Sub fused_activation_function:b pot_scale_int16:?=1;  Div fused_activation_function:b;  Squeeze squeeze_dims:[i;
SequenceRNN time_major:? fused_activation_function:b asymmetric_quantize_inputs:?;
StridedSlice begin_mask:i end_mask:i ellipsis_mask:i new_axis_mask:i shrink_axis_mask:i offset:?;  Exp;  TopKV2;
Split num_splits:i;  LogSoftmax;  Cast in_data_type:b out_data_type:b;  Dequantize;  MaximumMinimum;
ArgMax output_type:b;  Less;  Neg;  PadV2;  Greater;  GreaterEqual;  LessEqual;  Select;  Slice;
TransposeConv padding:b stride_w:i stride_h:i fused_activation_function:b quantized_bias_type:b;
SparseToDense validate_indices:?;  Tile;  ExpandDims;  Equal;  NotEqual;  Shape out_type:b;  Pow;
ArgMin output_type:b;  FakeQuant min:f max:f num_bits:i narrow_range:?;  Pack values_count:i axis:i;  LogicalOr;
OneHot axis:i;  LogicalAnd;  LogicalNot;  Unpack num:i axis:i;  FloorDiv;  Square;  ZerosLike;  Fill;
BidirectionalSequenceLSTM fused_activation_function:b cell_clip:f proj_clip:f merge_outputs:? time_major:?=1 \
asymmetric_quantize_inputs:?;
BidirectionalSequenceRNN time_major:? fused_activation_function:b merge_outputs:? asymmetric_quantize_inputs:?;
UnidirectionalSequenceLSTM fused_activation_function:b cell_clip:f proj_clip:f time_major:? \
asymmetric_quantize_inputs:? diagonal_recurrent_tensors:?;
FloorMod;  Range;  ResizeNearestNeighbor align_corners:? half_pixel_centers:?;  LeakyRelu alpha:f;
SquaredDifference;  MirrorPad mode:b;  Abs;  SplitV num_splits:i;  Unique idx_out_type:b=2;  ReverseV2;  AddN;
GatherNd;  Cos;  Where;  Rank;  ReverseSequence seq_dim:i batch_dim:i;  MatrixDiag;  Quantize;  MatrixSetDiag;
HardSwish;  If then_subgraph_index:i else_subgraph_index:i;  While cond_subgraph_index:i body_subgraph_index:i;
DepthToSpace block_size:i;  NonMaxSuppressionV4;  NonMaxSuppressionV5;  ScatterNd;  SelectV2;  Densify;  SegmentSum;
BatchMatMul adj_x:? adj_y:? asymmetric_quantize_inputs:?;  Cumsum exclusive:? reverse:?;
CallOnce init_subgraph_index:i;  BroadcastTo;  Rfft2d;
Conv3D padding:b stride_d:i stride_w:i stride_h:i fused_activation_function:b dilation_d_factor:i=1 \
dilation_w_factor:i=1 dilation_h_factor:i=1;
Hashtable table_id:i key_dtype:b value_dtype:b;  HashtableFind;  HashtableImport;  HashtableSize;
VarHandle container:s shared_name:s;  ReadVariable;  AssignVariable;  Random seed:q seed2:q;
Bucketize boundaries:[f;  Gelu approximate:?;  DynamicUpdateSlice;  UnsortedSegmentProd;  UnsortedSegmentMax;
UnsortedSegmentMin;  UnsortedSegmentSum;  ATan2;  Sign;  Bitcast;  BitwiseXor;  RightShift
"""

OPERATORS = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR
ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND
COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE
BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1
UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
RIGHT_SHIFT
""".split()

TYPES = (
    "float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 uint64 resource variant uint32 "
    "uint16 int4 bfloat16 int2 uint4 float8_e4m3fn float8_e5m2"
).split()


def tables(text: str) -> dict[str, tuple[Field, ...]]:
    """The tables of such a text, by name."""
    found = {}
    for row in text.split(";"):
        name, *slots = row.split()
        fields = []
        for slot in slots:
            field, _, kind = slot.partition(":")
            kind, _, default = kind.partition("=")
            fields.append(Field("" if field == "-" else field, kind, float(default or 0)))
        found[name] = tuple(fields)
    return found


_options = tables(_OPTIONS)
OPTIONS = ("", *_options)  # BuiltinOptions: the union's type number -> table
TABLES = tables(_CORE) | _options
_INDICES = ("", "Int32Vector", "Uint16Vector", "Uint8Vector")
UNIONS = {"builtin_options": OPTIONS, "array_segments": _INDICES, "array_indices": _INDICES}  # field -> table by its type
