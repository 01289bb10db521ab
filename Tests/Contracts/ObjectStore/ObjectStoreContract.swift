import Core
import Vault

/// A promise of ``ObjectStore`` that a store did not keep.
package struct BrokenPromise: Error, CustomStringConvertible {
  package let description: String
}

/// What every object store must keep, one promise per case; each gets a fresh, unprepared store.
///
/// An adapter's tests run all of `ObjectStorePromise.allCases`; when they pass, the adapter is done.
package enum ObjectStorePromise: String, CaseIterable, Sendable, CustomStringConvertible {
  case whatWasPutIsGot
  case preparingTwiceIsFine
  case rangesAreExact
  case rangesPastTheEndAreRefused
  case emptyRangesAreEmpty
  case repeatedPutIsFine
  case otherContentIsRefused
  case absentObjectsAreNotFound
  case listsAreByKindSortedAndSized
  case deletedIsGone
  case kindsDoNotMix
  case emptyAndLargeObjects
  case parallelPutsOfOneName
  case parallelPutsOfMany
  case parallelRangesAreExact
  case metadataIsReadAsAnythingElse
  case cancelledPutsLeaveAllOrNothing
  /// Only where the store can make an object on the condition that there is none.
  case oneOfSeveralConfigsWins

  /// What every store keeps, also one whose server overwrites without asking.
  package static let unconditional = allCases.filter { $0 != .oneOfSeveralConfigsWins }

  package var description: String { rawValue }

  package func check(_ store: any ObjectStore) async throws {
    if self == .preparingTwiceIsFine { try await store.prepare() }
    try await store.prepare()
    switch self {
    case .whatWasPutIsGot:
      for kind in ObjectKind.allCases {
        let (name, bytes) = Self.object(kind, "content of \(kind)")
        try await store.put(name, bytes)
        try require(try await store.get(name) == bytes, "\(name) comes back as it was")
        try require(try await store.size(of: name) == bytes.count, "\(name) has its size")
        try require(try await store.contains(name), "\(name) is there")
      }
    case .preparingTwiceIsFine:
      try await keeps(store, "prepared twice")
    case .rangesAreExact:
      let bytes = SeededRandomness(seed: 1).bytes(10_000)
      let name = ObjectName(.data, Digest.of(bytes))
      try await store.put(name, bytes)
      for range in [0..<1, 0..<10_000, 9_999..<10_000, 4_000..<4_100] {
        try require(try await store.get(name, range: range) == Array(bytes[range]), "bytes \(range)")
      }
    case .rangesPastTheEndAreRefused:
      let (name, bytes) = Self.object(.data, "short")
      try await store.put(name, bytes)
      for range in [0..<6, 5..<6, 100..<200] {
        try await refuses(.pastEnd(name, sizeBytes: 5)) { () throws(StoreError) in
          _ = try await store.get(name, range: range)
        }
      }
    case .emptyRangesAreEmpty:
      let (name, bytes) = Self.object(.data, "content")
      try await store.put(name, bytes)
      try require(try await store.get(name, range: 3..<3).isEmpty, "an empty range gives nothing")
    case .repeatedPutIsFine:
      let (name, bytes) = Self.object(.index, "twice")
      try await store.put(name, bytes)
      try await store.put(name, bytes)
      try require(try await store.list(.index).count == 1, "put twice, there once")
    case .otherContentIsRefused:
      // Only the config's name says nothing of its content.
      try await store.put(.config, [1, 2, 3])
      try await refuses(.exists(.config)) { () throws(StoreError) in try await store.put(.config, [1, 2, 4]) }
      try await refuses(.exists(.config)) { () throws(StoreError) in try await store.put(.config, [1, 2, 3, 4]) }
      try require(try await store.get(.config) == [1, 2, 3], "the first content stays")
    case .absentObjectsAreNotFound:
      for kind in ObjectKind.allCases {
        let (name, _) = Self.object(kind, "never put")
        try await refuses(.notFound(name)) { () throws(StoreError) in _ = try await store.get(name) }
        try await refuses(.notFound(name)) { () throws(StoreError) in _ = try await store.get(name, range: 0..<1) }
        try await refuses(.notFound(name)) { () throws(StoreError) in try await store.delete(name) }
        try require(try await store.size(of: name) == nil, "no size for what isn't there")
        try require(try await store.list(kind).isEmpty, "nothing is listed")
      }
    case .listsAreByKindSortedAndSized:
      var expected: [ObjectInfo] = []
      for number in 0..<40 {
        let (name, bytes) = Self.object(.data, String(repeating: "x", count: number + 1))
        try await store.put(name, bytes)
        expected.append(ObjectInfo(name, sizeBytes: bytes.count))
      }
      expected.sort { $0.name < $1.name }
      try require(try await store.list(.data) == expected, "data is listed whole, sorted, with sizes")
      try require(try await store.list(.index).isEmpty, "and nowhere else")
    case .deletedIsGone:
      let (name, bytes) = Self.object(.lock, "soon gone")
      try await store.put(name, bytes)
      try await store.delete(name)
      try require(try await store.list(.lock).isEmpty, "not listed")
      try await refuses(.notFound(name)) { () throws(StoreError) in _ = try await store.get(name) }
      try await store.put(name, bytes)
      try require(try await store.get(name) == bytes, "may be put again")
    case .kindsDoNotMix:
      let bytes = Array("same content".utf8)
      let names = [ObjectKind.key, .snapshot, .index, .lock, .data].map { ObjectName($0, Digest.of(bytes)) }
      for name in names { try await store.put(name, bytes) }
      try await store.delete(names[0])
      for name in names.dropFirst() { try require(try await store.contains(name), "\(name) is there still") }
    case .emptyAndLargeObjects:
      for size in [0, 1, 20 << 20] {
        let bytes = [UInt8](repeating: 7, count: size)
        let name = ObjectName(.data, Digest.of(bytes))
        try await store.put(name, bytes)
        try require(try await store.get(name) == bytes, "\(size) bytes come back")
      }
    case .parallelPutsOfOneName:
      let (name, bytes) = Self.object(.index, "everyone writes me")
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<16 { group.addTask { try await store.put(name, bytes) } }
        try await group.waitForAll()
      }
      try require(try await store.get(name) == bytes, "whole")
      try require(try await store.list(.index).count == 1, "once")
    case .parallelPutsOfMany:
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<64 {
          group.addTask {
            let bytes = SeededRandomness(seed: UInt64(number)).bytes(1000 + number)
            let name = ObjectName(.data, Digest.of(bytes))
            try await store.put(name, bytes)
            try require(try await store.get(name) == bytes, "readable as soon as put returns")
          }
        }
        try await group.waitForAll()
      }
      try require(try await store.list(.data).count == 64, "all there")
    case .parallelRangesAreExact:
      let bytes = SeededRandomness(seed: 2).bytes(1 << 20)
      let name = ObjectName(.data, Digest.of(bytes))
      try await store.put(name, bytes)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for part in 0..<16 {
          group.addTask {
            let range = part << 16..<(part + 1) << 16
            try require(try await store.get(name, range: range) == Array(bytes[range]), "bytes \(range)")
          }
        }
        try await group.waitForAll()
      }
    case .metadataIsReadAsAnythingElse:
      let bytes = SeededRandomness(seed: 3).bytes(5000)
      let name = ObjectName(.data, Digest.of(bytes))
      try await refuses(.notFound(name)) { () throws(StoreError) in _ = try await store.getMetadata(name, range: 0..<1)
      }
      try await store.put(name, bytes)
      for range in [0..<5000, 10..<20, 4990..<5000, 10..<20] {
        try require(try await store.getMetadata(name, range: range) == Array(bytes[range]), "bytes \(range)")
      }
      try await refuses(.pastEnd(name, sizeBytes: 5000)) { () throws(StoreError) in
        _ = try await store.getMetadata(name, range: 4999..<5001)
      }
      try await store.delete(name)
      try await refuses(.notFound(name)) { () throws(StoreError) in _ = try await store.getMetadata(name, range: 0..<1)
      }
    case .cancelledPutsLeaveAllOrNothing:
      let bytes = SeededRandomness(seed: 4).bytes(4 << 20)
      let name = ObjectName(.data, Digest.of(bytes))
      for _ in 0..<4 {
        await withTaskGroup(of: Void.self) { group in
          group.addTask { try? await store.put(name, bytes) }
          await Task.yield()
          group.cancelAll()
        }
        if let size = try await store.size(of: name) { try require(size == bytes.count, "whole, if it is there") }
      }
      try await store.put(name, bytes)
      try require(try await store.get(name) == bytes, "can be put after all")
      try require(try await store.list(.data).count == 1, "and nothing else is there")
    case .oneOfSeveralConfigsWins:
      let winners = try await withThrowingTaskGroup(of: UInt8?.self) { group in
        for number in UInt8(0)..<8 {
          group.addTask {
            do throws(StoreError) { try await store.put(.config, [number]) } catch {
              try require(error == .exists(.config), "the others are told so, not \(error)")
              return nil
            }
            return number
          }
        }
        return try await group.reduce(into: [UInt8]()) { if let number = $1 { $0.append(number) } }
      }
      try require(winners.count == 1, "one is stored, not \(winners.count)")
      try require(try await store.get(.config) == winners, "and that one is there")
    }
  }

  private static func object(_ kind: ObjectKind, _ text: String) -> (ObjectName, [UInt8]) {
    let bytes = Array(text.utf8)
    return (kind == .config ? .config : ObjectName(kind, Digest.of(bytes)), bytes)
  }

  private func keeps(_ store: any ObjectStore, _ text: String) async throws {
    let (name, bytes) = Self.object(.snapshot, text)
    try await store.put(name, bytes)
    try await store.prepare()
    try require(try await store.get(name) == bytes, "preparing leaves objects alone")
  }

  private func refuses(_ expected: StoreError, _ body: () async throws(StoreError) -> Void) async throws {
    do throws(StoreError) { try await body() } catch {
      guard error == expected else { throw BrokenPromise(description: "\(self): expected \(expected), got \(error)") }
      return
    }
    throw BrokenPromise(description: "\(self): expected \(expected), and nothing was thrown")
  }

  private func require(_ condition: Bool, _ what: String) throws {
    guard condition else { throw BrokenPromise(description: "\(self): not so: \(what)") }
  }
}
