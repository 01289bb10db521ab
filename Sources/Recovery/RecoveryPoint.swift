import Core
import DriverKit

/// A moment a group of stores can be brought back to, and how good that moment is.
///
/// Written into the vault as `point.json` of a snapshot of its own, beside the catalog it was taken under, so that a
/// repository and its key are enough to restore from. A point exists once that snapshot does.
package struct RecoveryPoint: Sendable, Equatable, Codable {
  package static let format = "salvor.dev/point/v1"

  package var format = RecoveryPoint.format
  /// Derived from the time, the group and the marks: the same cut has the same id.
  package var id: PointID
  package var group: GroupName
  /// The moment of the cut on the wall clock: every held store was held then.
  package var time: Timestamp
  package var mode: Mode
  /// Why the mode isn't better, and what else limits this point; empty for a flawless barrier.
  package var remarks: [String]
  /// From the first writer that may have waited to the last that was let go, in nanoseconds; zero if nobody waited.
  package var pauseNanoseconds: Int64
  package var holdBudgetNanoseconds: Int64
  package var catalogDigest: Digest
  /// The machine that took the point.
  package var host: String
  /// Those that were copied.
  package var stores: [StoreName: StorePoint]
  /// Those that were only marked: an earlier copy and the log lead there. `nil` as empty.
  package var logged: [StoreName: LoggedPoint]?
  /// What somebody called it, such as a release.
  package var name: String?
  /// What stores were asked right before the cut; `nil` where nobody asked.
  package var measured: Measured?

  package struct Measured: Sendable, Equatable, Codable {
    /// Metrics, by name, as the store wrote them.
    package var metrics: [String: String] = [:]
    /// Versions of schemas.
    package var schemas: [Schema] = []

    package struct Schema: Sendable, Equatable, Codable {
      package var store: StoreName
      /// How it was asked: another question has another answer.
      package var query: String
      package var version: String

      package init(store: StoreName, query: String, version: String) {
        (self.store, self.query, self.version) = (store, query, version)
      }
    }

    package init() {}
    package var isEmpty: Bool { metrics.isEmpty && schemas.isEmpty }
  }

  package enum Mode: String, Sendable, Codable {
    /// Every store of the cut was held at one moment.
    case barrier
    /// Cut by clock; ordered to within the clocks' error.
    case timeAligned = "time-aligned"
    /// Each store is consistent by itself; nothing is promised between them.
    case fuzzy
  }

  /// Some store is not in the cut; ``remarks`` says which and why.
  package var hasStoresOutside: Bool {
    stores.values.contains { $0.cut.isOutside } || logged?.values.contains { $0.cut.isOutside } == true
  }

  /// Every store it is about, copied or marked.
  package var members: Set<StoreName> { Set(stores.keys).union(logged.map { Set($0.keys) } ?? []) }

  package var pause: Duration { .nanoseconds(pauseNanoseconds) }
}

/// A store's part of a recovery point for which nothing was copied.
package struct LoggedPoint: Sendable, Equatable, Codable {
  package var driver: DriverName
  package var cut: StorePoint.Cut
  package var position: LogPosition
  package var timings: StorePoint.Timings
}

/// One store's part of a recovery point.
package struct StorePoint: Sendable, Equatable, Codable {
  package var driver: DriverName
  package var cut: Cut
  /// The store's snapshot in the vault; `salvor vault restore` and `restic restore` take it.
  package var snapshot: String
  package var capture: CaptureResult
  package var timings: Timings
  /// Bytes the vault did not have before.
  package var addedBytes: Int64

  package enum Cut: Sendable, Equatable, Codable {
    case held
    /// Not held, but copied as it was at one moment while all others were; at most one store of a point.
    case moment
    /// Not in the cut, and why, in so many words.
    case outside(why: String)

    package var isOutside: Bool { if case .outside = self { true } else { false } }
  }

  /// How long each phase took, in nanoseconds.
  package struct Timings: Sendable, Equatable, Codable {
    package var prepare: Int64 = 0
    package var hold: Int64 = 0
    package var mark: Int64 = 0
    package var release: Int64 = 0
    package var finish: Int64 = 0
    package init() {}
  }
}

/// A recovery point's name, such as `20261121T080920Z-3fa9c1d2`: sorts by time, to the second.
package struct PointID: Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
  package let text: String

  /// - Returns: `nil` unless `text` has the form of a point's id.
  package init?(_ text: some StringProtocol) {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[0].count == 16, parts[1].count == 8,
      text.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) || $0 == 84 || $0 == 90 || $0 == 45 })
    else { return nil }
    self.text = String(text)
  }

  package init(time: Timestamp, group: GroupName, catalog: Digest, marks: [StoreName: LogPosition]) {
    let compact = time.format(fractionDigits: 0).filter { $0 != "-" && $0 != ":" }
    var seed = "\(time.nanoseconds)\n\(group)\n\(catalog)\n"
    for (store, mark) in marks.sorted(by: { $0.key < $1.key }) { seed += "\(store) \(mark)\n" }
    text = "\(compact)-\(Digest.of(seed).short)"
  }

  package static func < (a: PointID, b: PointID) -> Bool { a.text < b.text }

  package var description: String { text }

  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = PointID(text) else {
      throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "not a point's id"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}
