import Core
import DriverKit

/// What a point holds, beside what something else holds: the mark's own record, the live system, another point.
package struct CompareReport: Sendable, Equatable, Codable {
  package struct Table: Sendable, Equatable, Codable {
    package enum State: String, Sendable, Codable {
      case same
      /// With other content; of a reference that went on that is what it should be.
      case changed
      /// In the point, and no more in the reference.
      case gone
      /// In the reference, and not in the point.
      case new
    }

    package var name: String
    package var state: State
    /// Rows, keys or files in the point.
    package var count: Int64?
    /// And in the reference.
    package var referenceCount: Int64?
  }

  package struct Store: Sendable, Equatable, Codable {
    package var store: StoreName
    /// What came back against what was recorded at the mark.
    package var mark: CheckReport
    /// Sorted; against the reference.
    package var tables: [Table] = []
    /// What is laid out otherwise in the reference; sorted.
    package var schema: [String] = []
    /// Why it could not be compared with the reference.
    package var problem: Report?

    package init(_ store: StoreName, mark: CheckReport) { (self.store, self.mark) = (store, mark) }

    package func count(_ state: Table.State) -> Int { tables.count { $0.state == state } }
  }

  package enum Verdict: String, Sendable, Codable {
    case same
    /// The same tables laid out the same, with other content.
    case changed
    /// Something is gone, new or laid out otherwise; or what came back is not what was captured.
    case different
    case couldNotCompare = "could-not-compare"
  }

  package var point: String
  package var pointTime: Timestamp
  /// `mark`, `live`, or another point's id.
  package var reference: String
  /// When the reference was read, or what moment it is of.
  package var referenceTime: Timestamp?
  package var stores: [Store] = []

  package init(point: String, pointTime: Timestamp, reference: String) {
    (self.point, self.pointTime, self.reference) = (point, pointTime, reference)
  }

  package var verdict: Verdict {
    let verdicts = stores.map(\.verdict)
    if verdicts.contains(.different) { return .different }
    if verdicts.contains(.couldNotCompare) || stores.isEmpty { return .couldNotCompare }
    return verdicts.contains(.changed) ? .changed : .same
  }
}

extension CompareReport.Store {
  package var verdict: CompareReport.Verdict {
    if mark.verdict == .failed || !schema.isEmpty || count(.gone) + count(.new) > 0 { return .different }
    if problem != nil { return .couldNotCompare }
    if tables.isEmpty { return mark.verdict == .passed ? .same : .couldNotCompare }
    return count(.changed) > 0 ? .changed : .same
  }

  /// Sets both side by side.
  ///
  /// - Throws: ``CheckError/unlikeDigests(captured:restored:)``.
  package mutating func compare(
    _ digest: ContentDigest, _ layout: StoreSchema?, with reference: ContentDigest, _ referenceLayout: StoreSchema?
  ) throws(CheckError) {
    guard digest.scheme == reference.scheme else {
      throw .unlikeDigests(captured: digest.scheme, restored: reference.scheme)
    }
    // The layout is compared part by part, where it can be.
    let names = Set(digest.parts.keys).union(reference.parts.keys).filter { layout == nil || $0 != "schema" }
    tables = names.sorted().map { name in
      let (ours, theirs) = (digest.parts[name], reference.parts[name])
      let state: CompareReport.Table.State =
        ours == nil ? .new : theirs == nil ? .gone : ours == theirs ? .same : .changed
      return CompareReport.Table(name: name, state: state, count: ours?.count, referenceCount: theirs?.count)
    }
    if let layout, let referenceLayout { schema = layout.differences(from: referenceLayout) }
  }
}
