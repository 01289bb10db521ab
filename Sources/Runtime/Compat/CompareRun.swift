import Catalog
import Core
import DriverKit
import Recovery
import Validation

/// Compares what a point brings back with what was recorded at its mark, with the live system, or with another point.
package struct CompareRun: Sendable {
  package enum Reference: Sendable, Equatable {
    /// Nothing but the mark's own record.
    case mark
    /// What is live now; it may go on meanwhile, and is seen at one moment.
    case live(within: Duration)
    case point(String)
  }

  private let system: ManagedSystem

  package init(_ system: ManagedSystem) { self.system = system }

  /// - Parameter stores: Empty is all of the catalog's.
  package func run(
    point: String?, with reference: Reference, stores: Set<StoreName> = [],
    progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> CompareReport {
    do {
      for store in stores where system.catalog.store(store) == nil { throw RecoveryError.noSuchStore(store) }
      let wanted = system.catalog.stores.map(\.name).filter { stores.isEmpty || stores.contains($0) }
      return try await OpenedPoint.with(wanted, at: point, in: system, opens: .whatCanBe, progress: progress) { place in
        switch reference {
        case .mark: return try await compare(place, progress)
        case .live(let limit):
          var report = try await compare(place, progress)
          (report.reference, report.referenceTime) = ("live", system.host.time.now())
          for index in report.stores.indices {
            try await compareLive(&report.stores[index], place, within: limit, progress)
          }
          return report
        case .point(let other):
          return try await OpenedPoint.with(wanted, at: other, in: system, opens: .whatCanBe, progress: progress) {
            second in
            var report = try await compare(place, progress)
            (report.reference, report.referenceTime) = (second.point.id.text, second.time)
            for index in report.stores.indices { try await compare(&report.stores[index], place, second) }
            return report
          }
        }
      }
    } catch { throw AnyFailure(error) }
  }

  private func compare(
    _ place: OpenedPoint, _ progress: @Sendable (String) -> Void
  ) async throws -> CompareReport {
    var report = CompareReport(point: place.point.id.text, pointTime: place.time, reference: "mark")
    for (store, capture) in place.captures.sorted(by: { $0.key < $1.key }) {
      progress("\(store): comparing with its mark")
      report.stores.append(
        CompareReport.Store(
          store,
          mark: CheckReport.comparing(
            store, captured: capture.contentDigest, restored: place.digests[store], at: system.host.time.now())))
    }
    return report
  }

  private func compareLive(
    _ store: inout CompareReport.Store, _ place: OpenedPoint, within limit: Duration,
    _ progress: @Sendable (String) -> Void
  ) async throws {
    let name = store.store
    progress("\(name): reading what is live")
    do {
      let (copy, digest) = (place.copies[name], place.digests[name])
      guard copy != nil || digest != nil, let view = try await system.driver(of: name).liveView() else {
        throw CompareError.notComparable(name)
      }
      let seen: Result<(ContentDigest, StoreSchema), any Error>
      do {
        seen = .success(
          try await system.host.time.withTimeLimit(limit) { (try await view.contentDigest(), try await view.schema()) })
      } catch { seen = .failure(error) }
      await view.close()
      let (live, schema) = try seen.get()
      if let copy {
        try store.compare(try await copy.contentDigest(), try await copy.schema(), with: live, schema)
      } else if let digest {
        // Of a copy that can't be opened, what it was proved to hold when it came back.
        try store.compare(digest, nil, with: live, nil)
      }
    } catch { store.problem = try problem(error) }
  }

  private func compare(_ store: inout CompareReport.Store, _ place: OpenedPoint, _ other: OpenedPoint) async throws {
    let name = store.store
    do {
      if let copy = place.copies[name], let second = other.copies[name] {
        try store.compare(
          try await copy.contentDigest(), try await copy.schema(), with: try await second.contentDigest(),
          try await second.schema())
      } else if let digest = place.digests[name], let second = other.digests[name] {
        try store.compare(digest, nil, with: second, nil)
      } else {
        throw CompareError.notComparable(name)
      }
    } catch { store.problem = try problem(error) }
  }

  private func problem(_ error: any Error) throws -> Report {
    let failure = AnyFailure(error)
    if failure.isCancellation || Task.isCancelled { throw CancellationError() }
    return failure.report
  }
}

/// Why a store could not be compared.
package enum CompareError: Failure {
  case notComparable(StoreName)

  package var report: Report {
    switch self {
    case .notComparable(let store):
      Report("COMPARE-101", "nobody has taught us to read \(store) whole beside its copy", retry: .never)
        .remedy("its content was compared with its mark; compare the rest by the invariants of the catalog")
    }
  }
}
