import Core

/// Tries a store out on objects of made-up content, and removes them again.
///
/// The store must be an empty place of its own: nothing in it is spared.
package struct StoreTrial {
  private let store: any ObjectStore
  private let randomness: any Randomness

  package init(_ store: any ObjectStore, randomness: any Randomness) {
    (self.store, self.randomness) = (store, randomness)
  }

  private static let objects = 8
  private static let writers = 8

  /// - Throws: If the place can't be used at all; what was made is removed then, too.
  package func run() async throws(StoreError) -> ConformanceReport {
    var findings: [StoreFinding] = []
    do throws(StoreError) {
      // A bucket is somebody's, and not made for a trial.
      if store is any ExaminableStore { _ = try await store.list(.lock) } else { try await store.prepare() }
      try await keeping(&findings)
      findings.append(try await creating())
      if let store = store as? any ExaminableStore {
        findings += try await store.examine(randomness)
      } else {
        findings.append(try await replacing())
        findings.append(StoreFinding(.versions, .absent, "this kind of store has none"))
        findings.append(StoreFinding(.objectLock, .absent, "this kind of store has none"))
      }
    } catch {
      _ = await clean()
      throw error
    }
    let order = StoreProperty.allCases
    findings.sort { (order.firstIndex(of: $0.property) ?? 0) < (order.firstIndex(of: $1.property) ?? 0) }
    return ConformanceReport(location: store.location, findings: findings, leftBehind: await clean())
  }

  private func object(_ count: Int = 20_000) -> (ObjectName, [UInt8]) {
    let bytes = randomness.bytes(count)
    return (ObjectName(.data, Digest.of(bytes)), bytes)
  }

  /// Writes, reads, lists, reads parts, deletes.
  private func keeping(_ findings: inout [StoreFinding]) async throws(StoreError) {
    var (read, listed, parts, gone) = (0, 0, 0, 0)
    for _ in 0..<Self.objects {
      let (name, bytes) = object()
      try await store.put(name, bytes)
      if try await probed({ () throws(StoreError) in try await store.get(name) }) == bytes { read += 1 }
      if try await store.list(.data).contains(ObjectInfo(name, sizeBytes: bytes.count)) { listed += 1 }
      if try await isExact(name, bytes) { parts += 1 }
      do throws(StoreError) { try await store.delete(name) } catch {
        guard case .permission = error else { throw error }
        continue
      }
      let isListed = try await store.list(.data).contains { $0.name == name }
      if try await store.size(of: name) == nil, !isListed { gone += 1 }
    }
    func finding(_ property: StoreProperty, _ count: Int, _ what: String) {
      findings.append(
        StoreFinding(
          property, count == Self.objects ? .verified : count == 0 ? .absent : .claimed,
          "\(count) of \(Self.objects) objects \(what)"))
    }
    finding(.readAfterWrite, read, "read back at once")
    finding(.listAfterWrite, listed, "listed at once")
    finding(.rangeReads, parts, "gave the parts that were asked for, and none past their end")
    finding(.delete, gone, "gone at once")
  }

  /// - Returns: `nil` for what isn't there, or isn't right.
  private func probed(_ body: () async throws(StoreError) -> [UInt8]) async throws(StoreError) -> [UInt8]? {
    do throws(StoreError) { return try await body() } catch {
      switch error {
      case .notFound, .pastEnd, .corrupt: return nil
      case .unavailable where !Task.isCancelled: return nil
      default: throw error
      }
    }
  }

  private func isExact(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) -> Bool {
    for range in [0..<1, 100..<9_000, bytes.count - 1..<bytes.count] {
      let part = try await probed { () throws(StoreError) in try await store.get(name, range: range) }
      guard part == Array(bytes[range]) else { return false }
    }
    do throws(StoreError) {
      _ = try await store.get(name, range: bytes.count - 1..<bytes.count + 1)
      return false
    } catch {
      if case .pastEnd = error { return true }
      return false
    }
  }

  /// Several make the one object whose name says nothing of its content.
  private func creating() async throws(StoreError) -> StoreFinding {
    let result: Result<(wins: Int, kept: Bool), StoreError> = await withTaskGroup(
      of: Result<UInt8?, StoreError>.self
    ) { group in
      for number in UInt8(0)..<UInt8(Self.writers) {
        group.addTask {
          do throws(StoreError) {
            try await store.put(.config, [number])
            return .success(number)
          } catch {
            switch error {
            case .exists, .unavailable: return .success(nil)
            default: return .failure(error)
            }
          }
        }
      }
      var (winners, failure) = ([UInt8](), StoreError?.none)
      while let one = await group.next() {
        switch one {
        case .success(let number): if let number { winners.append(number) }
        case .failure(let error): failure = error
        }
      }
      if let failure { return .failure(failure) }
      do throws(StoreError) {
        let content = try await store.get(.config)
        return .success((winners.count, winners.contains { [$0] == content }))
      } catch { return .failure(error) }
    }
    let (wins, isKept) = try result.get()
    let detail = "\(wins) of \(Self.writers) who made one object at the same time were told that they did"
    return StoreFinding(.atomicCreate, wins == 1 && isKept ? .verified : .absent, detail)
  }

  /// For stores that show no more than the port: the config that is there stays as it is.
  private func replacing() async throws(StoreError) -> StoreFinding {
    let before = try await store.get(.config)
    do throws(StoreError) { try await store.put(.config, [255, 255]) } catch {
      switch error {
      case .exists, .permission: break
      default: throw error
      }
    }
    guard try await store.get(.config) == before else {
      return StoreFinding(.conditionalWrite, .absent, "an object that was there was replaced")
    }
    return StoreFinding(.conditionalWrite, .verified, "an object that was there stayed as it was")
  }

  /// - Returns: What could not be removed.
  private func clean() async -> [String] {
    var left: [String] = []
    for kind in ObjectKind.allCases {
      let names = (try? await store.list(kind).map(\.name)) ?? []
      for name in names {
        do throws(StoreError) { try await store.delete(name) } catch {
          if case .notFound = error { continue }
          left.append("\(name)")
        }
      }
    }
    return left
  }
}
