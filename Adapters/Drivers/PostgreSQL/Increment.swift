import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What a copy need not read again, since the log between an earlier copy and this one does not name it.
///
/// The earlier copy's pages were read after its start position, when everything before it was on disk. A page that no record
/// from that start up to this copy's start names is as it was then, but for hints that were not logged. What happens from
/// this copy's start on, its own log brings.
struct Increment: Sendable {
  var earlier: any EarlierTree
  var changes: ChangedBlocks
  /// The earlier copy's start, and this one's.
  var since: LogSequenceNumber
  var start: LogSequenceNumber
  var partBytes: Int
  var logBytes: Int64
  /// Whether parts that nothing names must be the same to the byte. With checksums hints are logged too, but only the first after
  /// each checkpoint: two servers' pages differ by the others.
  var comparesBytes: Bool

  /// What of a file is taken over: as many as the file has parts.
  struct Parts: Sendable {
    var digests: [Digest?]
    var isWhole: Bool { !digests.contains(nil) }
  }

  /// - Returns: `nil` for a file that is to be read like any other.
  func parts(of file: ClusterFile) async throws(DriverError) -> Parts? {
    guard case .relation = file.kind, let place = RelationPlace(file.target) else { return nil }
    let size = file.metadata.size
    let isMain = place.name.fork.isEmpty
    if isMain ? changes.isNew(place.relation) : changes.touches(place.relation) { return nil }
    if place.name.fork == "init" { return nil }
    let found: EarlierFile?
    do throws(AnyFailure) { found = try await earlier.file(file.target, cutEvery: partBytes) } catch {
      if error.isCancellation { throw .cancelled }
      // What of it can't be had is read.
      return nil
    }
    guard let found else { return nil }
    func length(_ part: Int, of size: Int64) -> Int64 { min(Int64(partBytes), size - Int64(part) * Int64(partBytes)) }
    let count = Int((size + Int64(partBytes) - 1) / Int64(partBytes))
    if !isMain { return found.size == size ? Parts(digests: found.parts) : nil }
    var digests = [Digest?](repeating: nil, count: count)
    for part in 0..<min(count, found.parts.count)
    where length(part, of: size) == length(part, of: found.size)
      && !changes.contains(UInt32(part), of: place.name.segment, in: place.relation)
    {
      digests[part] = found.parts[part]
    }
    return Parts(digests: digests)
  }

  /// Reads one part that is to be taken over, and looks whether the log told the truth. Blocks.
  ///
  /// - Returns: What contradicts it; `nil` if nothing does.
  func contradiction(_ part: Int, _ digest: Digest, of file: ClusterFile) throws(DriverError) -> String? {
    guard case .relation(let firstBlock) = file.kind, let place = RelationPlace(file.target), place.name.fork.isEmpty
    else { return nil }
    let offset = Int64(part) * Int64(partBytes)
    let expected = Int(min(Int64(partBytes), file.metadata.size - offset))
    var tries = 0
    while true {
      let bytes: [UInt8]
      do throws(SystemFailure) { bytes = try File(file.path, O_RDONLY).read(at: offset, count: expected) } catch {
        if error.number == ENOENT { return nil }
        throw DriverError(error)
      }
      // Cut off since; the log that follows knows.
      guard bytes.count == expected else { return nil }
      var isNewer = false
      var contradicting: (block: Int64, position: LogSequenceNumber)?
      bytes.withUnsafeBytes { raw in
        for at in stride(from: 0, to: raw.count - DataPage.bytes + 1, by: DataPage.bytes) {
          let page = UnsafeRawBufferPointer(rebasing: raw[at..<at + DataPage.bytes])
          let position = DataPage.position(of: page)
          if position >= start { isNewer = true }
          if position >= since, position < start {
            contradicting = (Int64(firstBlock) + (offset + Int64(at)) / Int64(DataPage.bytes), position)
          }
        }
      }
      if isNewer { return nil }
      if contradicting == nil, !comparesBytes || Digest.of(bytes) == digest { return nil }
      // A page that is being written now looks like anything.
      tries += 1
      guard tries > 5 else { continue }
      return contradicting.map { "block \($0.block) was changed at \($0.position)" }
        ?? "blocks from \(Int64(firstBlock) + offset / Int64(DataPage.bytes)) on are others than they were"
    }
  }
}

extension Increment {
  /// How many parts are read all the same, to see whether the log told the truth.
  static let samples = 32

  /// Reads some of what is to be taken over, by chance.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` if one of them is not as it was.
  func examine(
    _ files: [ClusterFile], _ kept: [TreePath: Parts], _ environment: DriverEnvironment
  ) async throws(DriverError) {
    var ends: [(end: Int, file: Int)] = []
    var total = 0
    for (index, file) in files.enumerated() {
      guard let parts = kept[file.target] else { continue }
      total += parts.digests.count
      ends.append((total, index))
    }
    guard total > 0 else { return }
    for _ in 0..<min(Self.samples, total) {
      let number = environment.randomness.below(total)
      var (low, high) = (0, ends.count - 1)
      while low < high {
        let middle = (low + high) / 2
        if ends[middle].end > number { high = middle } else { low = middle + 1 }
      }
      let file = files[ends[low].file]
      guard let parts = kept[file.target] else { continue }
      let part = number - (ends[low].end - parts.digests.count)
      guard let digest = parts.digests[part] else { continue }
      let found = try await environment.pool.run { () throws(DriverError) in
        try contradiction(part, digest, of: file)
      }
      if let found { throw .logGap("the log since \(since) does not name it, but of \(file.path) \(found)") }
    }
  }
}

/// Which relation a file of a copy belongs to.
struct RelationPlace: Equatable, Sendable {
  var relation: ChangedBlocks.Relation
  var name: RelationFileName

  /// - Parameter target: Such as `data/base/5/1259_vm` or `tablespaces/16400/PG_15_202209061/5/16401.1`.
  init?(_ target: TreePath) {
    let names = target.components.map(\.lossyText)
    guard let file = names.last.flatMap({ RelationFileName($0) }) else { return nil }
    let (tablespace, database): (UInt32?, UInt32?)
    switch (names.first, names.count) {
    // Numbers of the two tablespaces every cluster has. Source: src/include/catalog/pg_tablespace.dat.
    case ("data", 3) where names[1] == "global": (tablespace, database) = (1664, 0)
    case ("data", 4) where names[1] == "base": (tablespace, database) = (1663, UInt32(names[2]))
    case ("tablespaces", 5): (tablespace, database) = (UInt32(names[1]), UInt32(names[3]))
    default: return nil
    }
    guard let tablespace, let database else { return nil }
    relation = ChangedBlocks.Relation(tablespace: tablespace, database: database, number: file.number)
    name = file
  }
}

// MARK: Whether there is one

extension PostgreSQLDriver {
  /// Finds out what changed since an earlier copy, from the server's log, the repository's, or the earlier copy's own.
  ///
  /// - Throws: ``DriverError/logGap(_:)``, or another reason to read everything.
  func increment(
    since earlier: EarlierCapture, _ facts: RestoreFacts, _ cluster: ClusterFacts, start: LogSequenceNumber,
    timeline: UInt32, scratch: String
  ) async throws(DriverError) -> Increment {
    guard let since = LogSequenceNumber(facts.start), let stop = LogSequenceNumber(facts.stop),
      let digest = facts.logDigest
    else { throw .logGap("the newest copy in the repository does not say what a later one could begin with") }
    guard facts.systemIdentifier == cluster.systemIdentifier else {
      throw .logGap("the newest copy in the repository is another cluster's")
    }
    guard facts.major == cluster.major, facts.tablespaceVersion == cluster.tablespaceVersion,
      facts.segmentBytes == cluster.geometry.segmentBytes, facts.hasChecksums == cluster.hasChecksums
    else { throw .logGap("the cluster was made anew, or its pages rewritten, since the newest copy in the repository") }
    guard (15...17).contains(facts.major) else {
      throw .logGap("the log of PostgreSQL \(facts.major) is not one that is known to be read right")
    }
    if standby != nil, since < stop, stop > start {
      throw .logGap("the standby has made no restartpoint since the newest copy in the repository")
    }
    guard since < stop, stop <= start else { throw .logGap("the newest copy in the repository is none from before") }
    let geometry = cluster.geometry
    let history = try await history(from: facts.timeline, to: timeline)
    // What a copy holds must lie on this history: behind the fork are changes that never happened.
    for fork in history.dropLast() where fork.timeline >= facts.timeline && fork.end < stop {
      throw .logGap("the cluster left the newest copy's history at \(fork.end), before the copy's end \(stop)")
    }
    let pass = LogPass(
      geometry, of: UInt64(cluster.systemIdentifier) ?? 0, from: since, digested: stop, to: start,
      into: ChangedBlocks(
        segmentBlocks: cluster.segmentBlocks, partBlocks: UInt32(facts.partBytes / DataPage.bytes)))
    let archive = ArchivedSegments(
      earlier: earlier, facts: facts, since: since, geometry: geometry, scratch: scratch, pool: environment.pool)
    for segment in geometry.segment(of: since)...geometry.segment(of: start) {
      try throwIfCancelled()
      let name = geometry.fileName(timeline: Self.timeline(of: segment, in: history, geometry), segment: segment)
      let live = dataDirectory + "/pg_wal/" + name
      if try await blocking({ Files.exists(live) }) {
        try await blocking { () throws(DriverError) in try pass.read(segment, at: live) }
      } else {
        let path = try await archive.bring(name)
        try await blocking { () throws(DriverError) in
          try pass.read(segment, at: path)
          unlink(path)
        }
      }
    }
    let outcome = try pass.finish()
    // The same positions, and another log: a machine that was brought back to an earlier state.
    guard outcome.digest == digest else {
      throw .logGap("the log of the newest copy in the repository is not this cluster's")
    }
    return Increment(
      earlier: earlier.tree, changes: outcome.changes, since: since, start: start, partBytes: facts.partBytes,
      logBytes: outcome.bytes,
      comparesBytes: cluster.hasChecksums && timeline == facts.timeline && standby == nil && facts.isOfOneServer)
  }

  /// The timelines from one to another that it led to, each with where it was left; the last is not left.
  private func history(from first: UInt32, to last: UInt32) async throws(DriverError) -> [(
    timeline: UInt32, end: LogSequenceNumber
  )] {
    if first == last { return [(last, LogSequenceNumber(.max))] }
    let digits = String(last, radix: 16, uppercase: true)
    let path =
      dataDirectory + "/pg_wal/" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits + ".history"
    let bytes = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try Files.read(path, limitBytes: 1 << 20) } catch {
        throw DriverError.logGap("timeline \(last) has no history: \(error.report.summary)")
      }
    }
    var result: [(timeline: UInt32, end: LogSequenceNumber)] = []
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") where line.first?.isNumber == true {
      let fields = line.split(whereSeparator: \.isWhitespace)
      guard fields.count >= 2, let timeline = UInt32(fields[0]), let end = LogSequenceNumber(fields[1]),
        timeline > result.last?.timeline ?? 0, end >= result.last?.end ?? LogSequenceNumber(0), timeline < last
      else { throw .logGap("\(path) makes no sense") }
      result.append((timeline, end))
    }
    guard result.contains(where: { $0.timeline == first }) else {
      throw .logGap("timeline \(last) did not come from the newest copy's, \(first)")
    }
    return result + [(last, LogSequenceNumber(.max))]
  }

  /// The timeline under whose name a segment is: the newest, where one was left inside it.
  private static func timeline(
    of segment: UInt64, in history: [(timeline: UInt32, end: LogSequenceNumber)], _ geometry: LogGeometry
  ) -> UInt32 {
    let next = (segment + 1) &* geometry.segmentBytes
    return (history.first { $0.end.value >= next } ?? history[history.count - 1]).timeline
  }
}

/// Segments that the server has no more, put together from the earlier copy's own log and the repository's.
private actor ArchivedSegments {
  private let earlier: EarlierCapture
  private let facts: RestoreFacts
  private let since: LogSequenceNumber
  private let geometry: LogGeometry
  private let scratch: String
  private let pool: BlockingPool
  private var opened: (source: any LogSource, extents: [LogExtent])?
  private var isOpened = false

  init(
    earlier: EarlierCapture, facts: RestoreFacts, since: LogSequenceNumber, geometry: LogGeometry, scratch: String,
    pool: BlockingPool
  ) {
    (self.earlier, self.facts, self.since, self.geometry) = (earlier, facts, since, geometry)
    (self.scratch, self.pool) = (scratch, pool)
  }

  /// - Returns: A file of a segment's size; what is nowhere is zero in it.
  func bring(_ name: String) async throws(DriverError) -> String {
    do {
      let path = scratch + "/" + name
      let bytes = Int64(geometry.segmentBytes)
      let file = try await pool.run { () throws(SystemFailure) in
        let file = try File(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW)
        try file.truncate(to: bytes)
        return file
      }
      var isKnown = false
      // The earlier copy has it up to its mark, and zeros behind.
      if let own = try? await earlier.tree.contents(
        of: TreePath("data/pg_wal/" + name), limitBytes: Int(geometry.segmentBytes))
      {
        try await pool.run { () throws(SystemFailure) in
          try own.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: 0) }
        }
        isKnown = true
      }
      if let (source, extents) = try await open() {
        for extent in extents where extent.file == name {
          isKnown = true
          try await source.read(extent) { [pool] offset, piece in
            guard offset >= 0, offset + Int64(piece.count) <= bytes else {
              throw DriverError.corrupt("the log's \(extent.file) has bytes outside itself")
            }
            try await pool.run { () throws(SystemFailure) in
              try piece.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: offset) }
            }
          }
        }
      }
      guard isKnown else {
        throw DriverError.logGap("the server has \(name) no more, and the repository's log has it not")
      }
      return path
    } catch { throw DriverError(error) }
  }

  private func open() async throws(AnyFailure) -> (source: any LogSource, extents: [LogExtent])? {
    if isOpened { return opened }
    isOpened = true
    for position in [facts.start, facts.mark] {
      let place = LogPosition(kind: "lsn", value: position, details: ["timeline": String(facts.timeline)])
      guard let source = try await earlier.log(place) else { continue }
      opened = (source, try await source.extents())
      return opened
    }
    return nil
  }
}
