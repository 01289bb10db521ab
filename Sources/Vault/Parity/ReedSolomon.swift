import CISAL

/// Reed-Solomon over GF(2⁸) with a Cauchy matrix: any `dataShards` of all shards give back the others.
///
/// Source: Intel ISA-L, erasure_code.h.
struct ReedSolomon {
  let dataShards: Int
  let parityShards: Int
  /// One row per shard, the unit matrix first.
  private let matrix: [UInt8]

  /// - Parameters:
  ///   - dataShards: At least 1.
  ///   - parityShards: At least 1; no more than 255 in all.
  init(dataShards: Int, parityShards: Int) {
    precondition(dataShards > 0 && parityShards > 0 && dataShards + parityShards <= 255)
    (self.dataShards, self.parityShards) = (dataShards, parityShards)
    var matrix = [UInt8](repeating: 0, count: (dataShards + parityShards) * dataShards)
    gf_gen_cauchy1_matrix(&matrix, Int32(dataShards + parityShards), Int32(dataShards))
    self.matrix = matrix
  }

  /// The parity of `data`, shard after shard.
  ///
  /// - Parameter data: `dataShards` shards of `shardBytes`.
  func encode(_ data: [UInt8], shardBytes: Int) -> [UInt8] {
    multiply(Array(matrix[(dataShards * dataShards)...]), rows: parityShards, data, shardBytes)
  }

  /// Computes the data shards that are missing.
  ///
  /// - Parameters:
  ///   - present: Numbers of `dataShards` shards that are right, data first, then parity.
  ///   - shards: Those shards, one after another in the same order.
  ///   - missing: Numbers of data shards.
  /// - Returns: The missing ones, one after another; `nil` if the matrix can't be inverted, which it always can.
  func decode(_ shards: [UInt8], present: [Int], missing: [Int], shardBytes: Int) -> [UInt8]? {
    guard present.count == dataShards, !missing.isEmpty else { return nil }
    var survivors: [UInt8] = []
    for row in present { survivors += matrix[(row * dataShards)..<((row + 1) * dataShards)] }
    var inverse = [UInt8](repeating: 0, count: survivors.count)
    guard gf_invert_matrix(&survivors, &inverse, Int32(dataShards)) == 0 else { return nil }
    var rows: [UInt8] = []
    for row in missing { rows += inverse[(row * dataShards)..<((row + 1) * dataShards)] }
    return multiply(rows, rows: missing.count, shards, shardBytes)
  }

  private func multiply(_ coefficients: [UInt8], rows: Int, _ input: [UInt8], _ shardBytes: Int) -> [UInt8] {
    var coefficients = coefficients
    var tables = [UInt8](repeating: 0, count: 32 * dataShards * rows)
    ec_init_tables(Int32(dataShards), Int32(rows), &coefficients, &tables)
    var input = input
    var output = [UInt8](repeating: 0, count: rows * shardBytes)
    input.withUnsafeMutableBufferPointer { input in
      output.withUnsafeMutableBufferPointer { output in
        guard let source = input.baseAddress, let target = output.baseAddress else { return }
        var sources = (0..<dataShards).map { Optional(source + $0 * shardBytes) }
        var targets = (0..<rows).map { Optional(target + $0 * shardBytes) }
        ec_encode_data(Int32(shardBytes), Int32(dataShards), Int32(rows), &tables, &sources, &targets)
      }
    }
    return output
  }
}
