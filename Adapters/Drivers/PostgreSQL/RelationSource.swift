import Core
import DriverKit
import IO
import Synchronization

/// Pages that changed after the backup began and could not be judged; the log repairs them if it reaches that far.
///
/// Filled from several threads; looked at once the backup's end is known.
final class UnjudgedPages: Sendable {
  struct Page: Sendable {
    var file: String
    var block: UInt32
    var position: LogSequenceNumber
  }

  private let furthest = Mutex<Page?>(nil)
  private let tally = Mutex(0)

  func note(_ page: Page) {
    tally.withLock { $0 += 1 }
    furthest.withLock { if $0.map({ $0.position < page.position }) ?? true { $0 = page } }
  }

  var count: Int { tally.withLock { $0 } }

  /// - Throws: ``DriverError/corrupt(_:)`` if a page names a change the log does not hold: its header is damaged.
  func check(against stop: LogSequenceNumber) throws(DriverError) {
    guard let page = furthest.withLock({ $0 }), page.position > stop else { return }
    throw .corrupt(
      "\(page.file), block \(page.block): bad checksum, and a change at \(page.position) that the log does not have")
  }
}

/// A relation's file as it was when it was opened, page checksums verified as it streams by. Calls block.
///
/// A page may be caught half written. It is read again; if it changed after the backup began, replay of the log
/// brings a whole image of it, so it need not be sound. Anything else that fails its checksum is damage.
/// Source: PostgreSQL 15, src/backend/backup/basebackup.c, sendFile.
final class RelationSource: ByteSource {
  private static let bufferBytes = 256 << 10
  private static let rereads = 5

  private let file: File
  private let firstBlock: UInt32
  /// `nil` if the cluster has no checksums.
  private let start: LogSequenceNumber?
  private let unjudged: UnjudgedPages
  /// What is still to be read of it, from the front.
  private var stretches: ArraySlice<Range<Int64>>
  /// Whether what was cut off meanwhile counts as zero: parts that follow must not move up.
  private let isSparse: Bool
  private var offset: Int64 = 0
  private let buffer: UnsafeMutableRawBufferPointer
  private var ready = 0..<0

  /// - Parameter limit: Bytes; what is beyond it came after the backup began, and is in the log.
  convenience init(
    _ file: File, limit: Int64, firstBlock: UInt32, verifyingSince start: LogSequenceNumber?, unjudged: UnjudgedPages
  ) {
    self.init(file, [0..<limit], isSparse: false, firstBlock, verifyingSince: start, unjudged: unjudged)
  }

  /// - Parameter stretches: In ascending order, whole pages but for the last.
  init(
    _ file: File, _ stretches: [Range<Int64>], isSparse: Bool, _ firstBlock: UInt32,
    verifyingSince start: LogSequenceNumber?, unjudged: UnjudgedPages
  ) {
    (self.file, self.firstBlock, self.start, self.unjudged) = (file, firstBlock, start, unjudged)
    (self.stretches, self.isSparse) = (stretches[...], isSparse)
    offset = stretches.first?.lowerBound ?? 0
    buffer = .allocate(byteCount: Self.bufferBytes, alignment: 16)
  }

  deinit { buffer.deallocate() }

  func read(into target: UnsafeMutableRawBufferPointer) throws -> Int {
    if ready.isEmpty { try fill() }
    let count = min(target.count, ready.count)
    guard count > 0 else { return 0 }
    target.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[ready.lowerBound..<ready.lowerBound + count]))
    ready = ready.lowerBound + count..<ready.upperBound
    return count
  }

  private func fill() throws {
    while let stretch = stretches.first, offset >= stretch.upperBound {
      stretches.removeFirst()
      offset = stretches.first?.lowerBound ?? offset
    }
    guard let stretch = stretches.first else { return }
    let wanted = Int(min(Int64(buffer.count), stretch.upperBound - offset))
    guard wanted > 0 else { return }
    let target = UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted])
    var count = try file.read(at: offset, into: target)
    if isSparse, count < wanted {
      UnsafeMutableRawBufferPointer(rebasing: target[count...]).initializeMemory(as: UInt8.self, repeating: 0)
      count = wanted
    }
    if let start {
      var at = 0
      while at + DataPage.bytes <= count {
        let (index, overflow) = UInt32(truncatingIfNeeded: (offset + Int64(at)) / Int64(DataPage.bytes))
          .addingReportingOverflow(firstBlock)
        if overflow { throw DriverError.corrupt("\(file.path): no relation has so many blocks") }
        try verify(at..<at + DataPage.bytes, block: index, since: start)
        at += DataPage.bytes
      }
    }
    ready = 0..<count
    offset += Int64(count)
  }

  private func verify(_ range: Range<Int>, block: UInt32, since start: LogSequenceNumber) throws {
    let page = UnsafeMutableRawBufferPointer(rebasing: buffer[range])
    var tries = 0
    while DataPage.verdict(of: UnsafeRawBufferPointer(page), block: block) == .damaged {
      let position = DataPage.position(of: UnsafeRawBufferPointer(page))
      if position > start {
        unjudged.note(UnjudgedPages.Page(file: file.path, block: block, position: position))
        return
      }
      guard tries < Self.rereads else { throw DriverError.corrupt("\(file.path), block \(block): bad page checksum") }
      tries += 1
      let count = try file.read(at: offset + Int64(range.lowerBound), into: page)
      // Cut off meanwhile; the log knows of it.
      guard count == page.count else { return }
    }
  }
}
