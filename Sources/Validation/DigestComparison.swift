import Core
import DriverKit

extension CheckReport {
  /// Compares what a store said when it was captured with what it says after its restore.
  ///
  /// A side without a digest, or digests of unlike schemes, are "could not check", never "equal".
  package static func comparing(
    _ store: StoreName, captured: ContentDigest?, restored: ContentDigest?, at: Timestamp, exampleLimit: Int = 10
  ) -> CheckReport {
    var report = CheckReport(
      kind: .digest, name: "content", subject: store.text,
      outcome: .couldNotCheck(CheckError.noDigest("the capture").report),
      at: at)
    guard let captured else { return report }
    guard let restored else {
      report.outcome = .couldNotCheck(CheckError.noDigest("the restored state").report)
      return report
    }
    guard captured.scheme == restored.scheme else {
      report.outcome = .couldNotCheck(
        CheckError.unlikeDigests(captured: captured.scheme, restored: restored.scheme).report)
      return report
    }
    var total: Int64 = 0
    for part in captured.parts.values { total = total.addingReportingOverflow(part.count).partialValue }
    report.examined = total
    let changed = captured.differences(from: restored)
    if changed.isEmpty {
      report.outcome = .passed("\(captured.parts.count) parts with \(total) entries, the same as captured")
    } else {
      let examples = changed.prefix(max(0, exampleLimit)).map { name in
        describe(name, captured.parts[name], restored.parts[name])
      }
      report.outcome = .failed([
        Violation(.changed, count: Int64(changed.count), "parts are not as captured", examples: Array(examples))
      ])
    }
    return report
  }

  private static func describe(_ name: String, _ captured: ContentDigest.Part?, _ restored: ContentDigest.Part?)
    -> String
  {
    switch (captured, restored) {
    case (let before?, let after?) where before.count == after.count:
      "\(name): \(before.count) entries, with other content"
    case (let before?, let after?): "\(name): \(before.count) entries captured, \(after.count) restored"
    case (let before?, nil): "\(name): gone, with \(before.count) entries"
    case (nil, let after?): "\(name): new, with \(after.count) entries"
    case (nil, nil): name
    }
  }
}
