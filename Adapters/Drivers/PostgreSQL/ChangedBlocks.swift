import DriverKit

/// What of a cluster's relations a stretch of log says it changed, in parts of files.
///
/// Everything that changes a page of a main fork names it in its record, but for what is handled here by itself: files that
/// are made, cut off, or copied whole with their database. Free space maps are hints and hardly logged; visibility maps are
/// changed by records that name the table only: both are as they were if the log does not name their relation at all.
///
/// Source: PostgreSQL 15 to 17, src/include/access/xlogrecord.h, catalog/storage_xlog.h, commands/dbcommands_xlog.h,
/// access/xlog_internal.h, access/rmgrlist.h.
struct ChangedBlocks: Equatable, Sendable {
  struct Relation: Hashable, Sendable {
    var tablespace: UInt32
    var database: UInt32
    var number: UInt32
  }

  struct Place: Hashable, Sendable {
    var tablespace: UInt32
    var database: UInt32
  }

  struct Segment: Hashable, Sendable {
    var relation: Relation
    var number: UInt32
  }

  private let segmentBlocks: UInt32
  private let partBlocks: UInt32
  private(set) var parts: [Segment: Set<UInt32>] = [:]
  /// From which block on everything may have changed; 0 for a whole relation.
  private(set) var limits: [Relation: UInt32] = [:]
  /// Databases that came or went, in a tablespace.
  private(set) var places: Set<Place> = []
  private(set) var touched: Set<Relation> = []
  /// The last relation that was seen: most records come in runs.
  private var last: Relation?

  init(segmentBlocks: UInt32, partBlocks: UInt32) {
    (self.segmentBlocks, self.partBlocks) = (segmentBlocks, partBlocks)
  }

  static func == (a: Self, b: Self) -> Bool {
    (a.parts, a.limits, a.places, a.touched) == (b.parts, b.limits, b.places, b.touched)
  }

  // MARK: Asking

  /// Whether a part of a segment of a main fork may have changed.
  func contains(_ part: UInt32, of segment: UInt32, in relation: Relation) -> Bool {
    if isNew(relation) || parts[Segment(relation: relation, number: segment)]?.contains(part) ?? false { return true }
    guard let limit = limits[relation] else { return false }
    let end = UInt64(segment) * UInt64(segmentBlocks) + (UInt64(part) + 1) * UInt64(partBlocks)
    return end > UInt64(limit)
  }

  /// Whether nothing of a relation is as it was.
  func isNew(_ relation: Relation) -> Bool {
    limits[relation] == 0
      || places.contains(Place(tablespace: relation.tablespace, database: relation.database))
  }

  /// Whether anything of a relation, of whatever fork, may have changed.
  func touches(_ relation: Relation) -> Bool { isNew(relation) || touched.contains(relation) }

  // MARK: Taking

  /// - Throws: ``DriverError/logGap(_:)`` if a record makes no sense, or tells of something that others don't tell of.
  mutating func take(_ record: UnsafeRawBufferPointer) throws(DriverError) {
    let (manager, operation) = (record[17], record[16] & 0xf0)
    guard manager <= 21 else {
      throw .logGap("records of an extension's own (resource manager \(manager)) can change pages without naming them")
    }
    let data = try takeBlocks(of: record)
    switch (manager, operation) {
    case (0, 0x60):
      // xl_parameter_change: five settings before wal_level, of which 0 is minimal.
      guard try number(data, 20) >= 1 else {
        throw .logGap("wal_level was minimal for a while: changes were not logged")
      }
    case (2, 0x10):
      let made = try relation(data, 0)
      if try number(data, 12) == 0 { limit(made, from: 0) } else { touched.insert(made) }
    case (2, 0x20):
      limit(try relation(data, 4), from: try number(data, 0))
    case (2, _): throw unknown(record)
    case (4, 0x00), (4, 0x10):
      places.insert(Place(tablespace: try number(data, 4), database: try number(data, 0)))
    case (4, 0x20):
      let count = try number(data, 4)
      guard count <= 1 << 20 else { throw unknown(record) }
      for index in 0..<Int(count) {
        places.insert(Place(tablespace: try number(data, 8 + 4 * index), database: try number(data, 0)))
      }
    case (4, _): throw unknown(record)
    default: break
    }
  }

  private mutating func limit(_ relation: Relation, from block: UInt32) {
    touched.insert(relation)
    limits[relation] = min(limits[relation] ?? block, block)
  }

  private mutating func add(_ block: UInt32, of relation: Relation, fork: UInt8) {
    if relation != last {
      touched.insert(relation)
      last = relation
    }
    guard fork == 0 else { return }
    parts[Segment(relation: relation, number: block / segmentBlocks), default: []]
      .insert(block % segmentBlocks / partBlocks)
  }

  /// - Returns: The record's own data, behind what belongs to blocks.
  private mutating func takeBlocks(of record: UnsafeRawBufferPointer) throws(DriverError) -> UnsafeRawBufferPointer {
    var at = RecordReader.headerBytes
    var left = record.count - at
    /// What the headers say will follow them.
    var (blockData, mainData) = (0, 0)
    var current: Relation?
    func has(_ count: Int) throws(DriverError) { if at + count > record.count { throw unknown(record) } }
    while left > blockData + mainData {
      try has(1)
      let id = record[at]
      at += 1
      switch id {
      case 255:
        try has(1)
        mainData = Int(record[at])
        at += 1
      case 254:
        try has(4)
        mainData = Int(record.loadUnaligned(fromByteOffset: at, as: UInt32.self))
        at += 4
      case 253: at += 2
      case 252: at += 4
      case 0...32:
        try has(3)
        let flags = record[at]
        blockData += Int(record.loadUnaligned(fromByteOffset: at + 1, as: UInt16.self))
        at += 3
        if flags & 0x10 != 0 {
          try has(5)
          blockData += Int(record.loadUnaligned(fromByteOffset: at, as: UInt16.self))
          let image = record[at + 4]
          at += 5
          // A compressed image with a hole says how long the hole is.
          if image & 0x01 != 0, image & 0x1c != 0 { at += 2 }
        }
        if flags & 0x80 == 0 {
          try has(12)
          current = try relation(UnsafeRawBufferPointer(rebasing: record[at...]), 0)
          at += 12
        }
        try has(4)
        guard let current else { throw unknown(record) }
        add(record.loadUnaligned(fromByteOffset: at, as: UInt32.self), of: current, fork: flags & 0x0f)
        at += 4
      default: throw unknown(record)
      }
      left = record.count - at
    }
    guard left == blockData + mainData else { throw unknown(record) }
    return UnsafeRawBufferPointer(rebasing: record[(record.count - mainData)...])
  }

  private func number(_ data: UnsafeRawBufferPointer, _ offset: Int) throws(DriverError) -> UInt32 {
    guard offset + 4 <= data.count else { throw .logGap("a record of the log is shorter than its kind") }
    return data.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
  }

  private func relation(_ data: UnsafeRawBufferPointer, _ offset: Int) throws(DriverError) -> Relation {
    Relation(
      tablespace: try number(data, offset), database: try number(data, offset + 4), number: try number(data, offset + 8)
    )
  }

  private func unknown(_ record: UnsafeRawBufferPointer) -> DriverError {
    .logGap("a record of the log can't be read: resource manager \(record[17]), operation \(record[16] & 0xf0)")
  }
}
