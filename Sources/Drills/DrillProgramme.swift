import Catalog
import Core

/// A drill and its negative controls, one after the other: first the honest one, then one for each fault.
package enum DrillProgramme {
  /// What is left of a programme that was interrupted: of the newest, which an honest drill begins.
  ///
  /// What was stopped, or could not be carried out, is still to do. Nothing is left of one that was finished; one that was
  /// never begun is left as a whole.
  ///
  /// - Parameter records: Of any drills, in any order.
  /// - Returns: `nil` for the honest drill.
  package static func remaining(_ drill: Drill, _ records: [DrillRecord]) -> [Drill.Fault?] {
    let own = records.filter { $0.drill == drill.name && $0.verdict != .aborted && $0.verdict != .couldNotRun }
    guard let begun = own.filter({ $0.control == nil }).map(\.startedAt).max() else {
      return [nil] + drill.faults.map { .some($0) }
    }
    var done = own.filter { $0.startedAt >= begun }.compactMap(\.control)
    return drill.faults.filter { fault in
      let index = done.firstIndex {
        $0.fault == fault.kind && (fault.store == nil || $0.store == nil || $0.store == fault.store)
      }
      if let index { done.remove(at: index) }
      return index == nil
    }
  }
}
