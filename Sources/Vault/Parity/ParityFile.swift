import Core

/// A file that brings another one back: parity shards, and what tells a right shard from a wrong one.
///
/// See docs/formats/parity.md. The header stands at both ends.
struct ParityFile {
  static let magic = Array("SALVPAR1".utf8)
  private static let fixedBytes = 64
  private static let sumBytes = 16
  /// At the very end: the header's length, and the magic once more.
  private static let trailerBytes = 12
  /// More than any header has; enough to read it without knowing its length.
  static let headerLimitBytes = fixedBytes + 255 * sumBytes + 32

  let kind: ObjectKind
  /// The SHA-256 of the content; the name of all but the config.
  let id: Digest
  let sizeBytes: Int
  let dataShards: Int
  let parityShards: Int
  let shardBytes: Int
  /// The beginnings of SHA-256s: data shards, then parity shards.
  private let sums: [[UInt8]]

  var name: ObjectName { kind == .config ? .config : ObjectName(kind, id) }

  private static let kinds: [ObjectKind] = [.config, .key, .snapshot, .index, .data]

  // MARK: Writing

  /// The file for an object; the same for the same object and share.
  static func encode(_ name: ObjectName, _ bytes: [UInt8], _ share: ParityShare) -> [UInt8] {
    let (data, parity, shardBytes) = share.geometry(of: name.kind, sizeBytes: bytes.count)
    let padded = bytes + [UInt8](repeating: 0, count: data * shardBytes - bytes.count)
    let shards = ReedSolomon(dataShards: data, parityShards: parity).encode(padded, shardBytes: shardBytes)
    var header = magic
    header += [UInt8(kinds.firstIndex(of: name.kind) ?? 0), 0, UInt8(data), UInt8(parity)]
    append(UInt64(shardBytes), bytes: 4, to: &header)
    append(UInt64(bytes.count), bytes: 8, to: &header)
    header += bytes.withUnsafeBytes { PairedDigest.of($0) }.bytes
    header += [UInt8](repeating: 0, count: fixedBytes - header.count)
    for index in 0..<data { header += sum(padded, index, shardBytes) }
    for index in 0..<parity { header += sum(shards, index, shardBytes) }
    header += Digest.of(header).bytes
    var file = header + shards + header
    append(UInt64(header.count), bytes: 4, to: &file)
    return file + magic
  }

  private static func sum(_ bytes: [UInt8], _ index: Int, _ shardBytes: Int) -> [UInt8] {
    bytes.withUnsafeBytes { raw in
      Array(
        PairedDigest.of(UnsafeRawBufferPointer(rebasing: raw[index * shardBytes..<(index + 1) * shardBytes])).bytes
          .prefix(sumBytes))
    }
  }

  private static func append(_ value: UInt64, bytes: Int, to target: inout [UInt8]) {
    for index in 0..<bytes { target.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
  }

  private static func number(_ bytes: ArraySlice<UInt8>) -> Int {
    Int(truncatingIfNeeded: bytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
  }

  // MARK: Reading

  /// Reads a header that begins with `bytes`.
  ///
  /// - Returns: `nil` unless every bit of it is right.
  init?(header bytes: ArraySlice<UInt8>) {
    let bytes = Array(bytes)
    guard bytes.count >= Self.fixedBytes, bytes.starts(with: Self.magic), Int(bytes[8]) < Self.kinds.count else {
      return nil
    }
    kind = Self.kinds[Int(bytes[8])]
    (dataShards, parityShards) = (Int(bytes[10]), Int(bytes[11]))
    shardBytes = Self.number(bytes[12..<16])
    sizeBytes = Self.number(bytes[16..<24])
    let count = dataShards + parityShards
    let end = Self.fixedBytes + count * Self.sumBytes
    guard dataShards > 0, parityShards > 0, count <= 255, shardBytes > 0, bytes.count >= end + 32,
      sizeBytes >= 0, sizeBytes <= dataShards * shardBytes, dataShards * shardBytes <= BlobLimits.packBytes,
      Digest(bytes: bytes[end..<end + 32]) == Digest.of(bytes[..<end]), let id = Digest(bytes: bytes[24..<56])
    else { return nil }
    self.id = id
    sums = (0..<count).map {
      Array(bytes[(Self.fixedBytes + $0 * Self.sumBytes)..<(Self.fixedBytes + ($0 + 1) * Self.sumBytes)])
    }
  }

  /// Reads a whole file's header, from either end.
  init?(_ file: [UInt8]) {
    if let first = ParityFile(header: file.prefix(Self.headerLimitBytes)) {
      self = first
      return
    }
    guard file.count > Self.trailerBytes, file.suffix(8).elementsEqual(Self.magic) else { return nil }
    let end = file.count - Self.trailerBytes
    let length = Self.number(file[end..<end + 4])
    guard length <= end, let second = ParityFile(header: file[(end - length)..<end]) else { return nil }
    self = second
  }

  private var headerBytes: Int { Self.fixedBytes + sums.count * Self.sumBytes + 32 }

  /// What is wrong with an object and with this file, in shards.
  struct Condition: Hashable, Sendable {
    var damagedData: [Int] = []
    var damagedParity: [Int] = []
  }

  /// - Parameter damaged: The object as it is; empty if it is missing.
  func condition(of damaged: [UInt8], _ file: [UInt8]) -> Condition {
    var condition = Condition()
    for index in 0..<dataShards where Self.digest(shard(index, of: damaged)) != sums[index] {
      condition.damagedData.append(index)
    }
    for index in 0..<parityShards {
      guard let shard = parityShard(index, file), Self.digest(shard) == sums[dataShards + index] else {
        condition.damagedParity.append(index)
        continue
      }
    }
    return condition
  }

  /// The object as it was.
  ///
  /// - Returns: `nil` if more shards are damaged than there is parity for.
  func recover(_ damaged: [UInt8], _ file: [UInt8]) -> [UInt8]? {
    // No more is believed, and no more memory taken, than what is there can bring back.
    let parity = min(parityShards, max(0, file.count - headerBytes) / shardBytes)
    guard parity > 0, (dataShards - parity - 1) * shardBytes <= damaged.count else { return nil }
    let condition = condition(of: damaged, file)
    var data: [UInt8] = []
    data.reserveCapacity(dataShards * shardBytes)
    for index in 0..<dataShards { data += shard(index, of: damaged) }
    if !condition.damagedData.isEmpty {
      let rightData = (0..<dataShards).filter { !condition.damagedData.contains($0) }
      let rightParity = (0..<parityShards).filter { !condition.damagedParity.contains($0) }
      guard rightParity.count >= condition.damagedData.count else { return nil }
      let helping = rightParity.prefix(condition.damagedData.count)
      var present: [UInt8] = []
      for index in rightData { present += data[index * shardBytes..<(index + 1) * shardBytes] }
      for index in helping { present += parityShard(index, file) ?? [] }
      let code = ReedSolomon(dataShards: dataShards, parityShards: parityShards)
      guard
        let missing = code.decode(
          present, present: rightData + helping.map { dataShards + $0 }, missing: condition.damagedData,
          shardBytes: shardBytes)
      else { return nil }
      for (position, index) in condition.damagedData.enumerated() {
        data.replaceSubrange(
          index * shardBytes..<(index + 1) * shardBytes,
          with: missing[position * shardBytes..<(position + 1) * shardBytes])
      }
    }
    data.removeLast(data.count - sizeBytes)
    return data.withUnsafeBytes { PairedDigest.of($0) } == id ? data : nil
  }

  private func shard(_ index: Int, of object: [UInt8]) -> [UInt8] {
    let start = min(index * shardBytes, object.count)
    let end = min(start + shardBytes, object.count, max(start, sizeBytes))
    return object[start..<end] + [UInt8](repeating: 0, count: shardBytes - (end - start))
  }

  private func parityShard(_ index: Int, _ file: [UInt8]) -> [UInt8]? {
    let start = headerBytes + index * shardBytes
    guard start + shardBytes <= file.count else { return nil }
    return Array(file[start..<start + shardBytes])
  }

  private static func digest(_ shard: [UInt8]) -> [UInt8] {
    shard.withUnsafeBytes { Array(PairedDigest.of($0).bytes.prefix(sumBytes)) }
  }
}
