import Core
import StateKit
package struct EvidenceArchive { package init(host: Host) {}
  func record(_ r: RunRecord, _ i: RestoreInput, _ m: [ServiceMeasurement], in s: ManagedSystem) async throws(AnyFailure) -> String { "" } }
