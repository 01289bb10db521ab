import Core
import IO
import Synchronization

/// Trees of an earlier snapshot, as they are stored, for a walk that comes to them in order of their paths.
final class EarlierTrees: Sendable {
  enum Found: Sendable {
    case tree([UInt8])
    /// It can't be used, and that was said.
    case unusable
    /// It has to be loaded first.
    case absent
  }

  private struct State {
    /// `nil` for those that can't be used.
    var trees: [BlobID: [UInt8]?] = [:]
    var bytes = 0
  }

  private let reader: any BlobReader
  private let state = Mutex(State())
  private let note: @Sendable (String) -> Void

  /// - Parameter note: Told of trees that can't be used.
  init(_ reader: any BlobReader, note: @escaping @Sendable (String) -> Void) {
    (self.reader, self.note) = (reader, note)
  }

  func find(_ id: BlobID) -> Found {
    state.withLock { state in
      guard let found = state.trees[id] else { return .absent }
      return found.map { .tree($0) } ?? .unusable
    }
  }

  /// Loads trees and what lies below them, level by level, as much as a walk will soon come to.
  func load(_ wanted: [BlobID]) async {
    state.withLock { state in
      if state.bytes > Self.keptBytes { (state.trees, state.bytes) = ([:], 0) }
    }
    if let first = wanted.first, reader.length(.tree, first) == nil {
      giveUp(first, VaultError.blobMissing(.tree, first).report.summary)
    }
    var level = wanted
    var rest = Self.aheadBytes
    while rest > 0 {
      let part = choose(from: level, &rest)
      if part.isEmpty { return }
      level = await load(level: part)
    }
  }

  /// The first of them that aren't here, until there are enough. What is missing is told when the walk comes to it.
  private func choose(from level: [BlobID], _ rest: inout Int) -> [BlobID] {
    var result: [BlobID] = []
    var seen: Set<BlobID> = []
    for id in level where rest > 0 && result.count < Self.levelLimit {
      guard case .absent = find(id), let length = reader.length(.tree, id), seen.insert(id).inserted else { continue }
      result.append(id)
      rest -= max(1, length)
    }
    return result
  }

  /// - Returns: What lies below.
  private func load(level: [BlobID]) async -> [BlobID] {
    let below = Mutex<[BlobID]>([])
    do throws(VaultError) {
      try await reader.loadMany(.tree, level, parallel: 2) { [self] (id, bytes) throws(VaultError) -> Void in
        // For loading ahead: nothing is believed for it.
        let found = TreeMatcher.subtrees(in: bytes)
        below.withLock { $0 += found }
        keep(bytes, as: id)
      }
    } catch {
      // Which of them it is shows one by one.
      for id in level where state.withLock({ $0.trees[id] == nil }) {
        do throws(VaultError) { keep(try await reader.load(.tree, id), as: id) } catch {
          giveUp(id, error.report.summary)
        }
      }
    }
    return below.withLock { $0 }
  }

  private func keep(_ bytes: [UInt8], as id: BlobID) {
    state.withLock { state in
      state.trees[id] = .some(bytes)
      state.bytes += bytes.count
    }
  }

  func giveUp(_ id: BlobID, _ why: String) {
    state.withLock { $0.trees[id] = .some(nil) }
    note("the parent's tree \(id.short) can't be used: \(why)")
  }

  /// What is read ahead of a walk at a time, in bytes.
  private static let aheadBytes = 16 << 20
  private static let keptBytes = 64 << 20
  static let levelLimit = 4096
}
