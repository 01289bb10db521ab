import Core
import DriverKit
import IO

/// Swaps several names of one directory for their replacements and keeps the others, so that a crash at any call is
/// mended by calling again.
///
/// A server's data directory may be a mount point, and holds files that are none of the driver's business; so the names
/// are swapped one by one, by renames inside the directory. `PathSwap` does one path in one call; here the names only
/// mean something together, which is why the server must be stopped and a second call finishes a swap that was cut
/// short.
///
///     <directory>/dump.rdb, appendonlydir, …     live
///     <workspace>/next/…                         what was restored
///     <workspace>/kept/…                         what was live
///     <workspace>/plan                           which names had a live state, and which get one; there while swapped
///     <workspace>/swapped                        every name is in its place
struct EntrySwap: Sendable {
  let directory: String
  let workspace: String
  let names: [String]
  /// Told the name of each call that changes something, before it; a test throws here to stop as a crash would.
  var beforeCall: @Sendable (_ call: String) throws(DriverError) -> Void = { _ throws(DriverError) in }

  var next: String { "\(workspace)/next" }
  private var kept: String { "\(workspace)/kept" }
  private var surplus: String { "\(workspace)/surplus" }
  private var planPath: String { "\(workspace)/plan" }
  private var swappedPath: String { "\(workspace)/swapped" }

  private struct Plan: Codable {
    var hadLive: Set<String>
    var hasNext: Set<String>
  }

  func hasBegun() throws(DriverError) -> Bool { try isThere(planPath) }

  /// Whether a swap of this workspace stands, finished.
  static func isSwapped(in workspace: String) -> Bool {
    Files.exists("\(workspace)/plan") && Files.exists("\(workspace)/swapped")
  }

  /// Safe to replay. What was restored is in its place afterwards; what was there is kept.
  func swapIn() throws(DriverError) {
    try step("mkdir \(kept)") { () throws(SystemFailure) in
      try Files.createDirectory(kept, mode: 0o700)
      try Files.synchronizeDirectory(workspace)
    }
    if try !hasBegun() {
      guard try isThere(next) else { throw .engineFailed("nothing was restored beside \(directory)", log: "") }
      let plan = Plan(hadLive: try present(in: directory), hasNext: try present(in: next))
      try write(plan)
    }
    let plan = try readPlan()
    if try isThere(swappedPath) { return }
    for name in names {
      if plan.hadLive.contains(name), try !isThere("\(kept)/\(name)") { try move(name, from: directory, to: kept) }
      if plan.hasNext.contains(name), try isThere("\(next)/\(name)") { try move(name, from: next, to: directory) }
    }
    try step("write \(swappedPath)") { () throws(SystemFailure) in try Files.replace(swappedPath, with: []) }
  }

  /// Safe to replay; nothing if no swap has begun.
  ///
  /// - Parameter isRecorded: The record says that one was begun: what was restored must be beside again then.
  /// - Throws: If something that was kept is missing, with nothing changed.
  func swapOut(isRecorded: Bool = false) throws(DriverError) {
    guard try hasBegun() else {
      if isRecorded, try !isThere(next) { throw lost(names) }
      return
    }
    let plan = try readPlan()
    if try isThere(swappedPath) {
      let missing = Set(plan.hadLive).subtracting(try present(in: kept)).sorted()
      guard missing.isEmpty else { throw lost(missing) }
    }
    try step("remove \(swappedPath)") { () throws(SystemFailure) in
      try Files.removeTree(swappedPath)
      try Files.createDirectory(surplus, mode: 0o700)
      try Files.synchronizeDirectory(workspace)
    }
    for name in names {
      let live = "\(directory)/\(name)"
      if plan.hasNext.contains(name) {
        if try !isThere("\(next)/\(name)"), try isThere(live) { try move(name, from: directory, to: next) }
      } else if try isThere(live), try isThere("\(kept)/\(name)") || !plan.hadLive.contains(name) {
        // The server made it after the swap; it belongs to neither state.
        try step("remove \(surplus)/\(name)") { () throws(SystemFailure) in try Files.removeTree("\(surplus)/\(name)") }
        try move(name, from: directory, to: surplus)
      }
      if plan.hadLive.contains(name), try isThere("\(kept)/\(name)") { try move(name, from: kept, to: directory) }
    }
    try step("remove \(planPath)") { () throws(SystemFailure) in
      try Files.removeTree(planPath)
      try Files.synchronizeDirectory(workspace)
    }
  }

  /// - Throws: If a swap was begun and not ended, either way.
  func checkSettled() throws(DriverError) {
    if try !hasBegun() { return }
    guard try isThere(swappedPath) else {
      throw .engineFailed("a swap in \(directory) was cut short; finish it or undo it first", log: "")
    }
  }

  private func isThere(_ path: String) throws(DriverError) -> Bool {
    do { return try Files.isThere(path) } catch { throw DriverError(error) }
  }

  private func present(in place: String) throws(DriverError) -> Set<String> {
    var found: Set<String> = []
    for name in names where try isThere("\(place)/\(name)") { found.insert(name) }
    return found
  }

  private func lost(_ names: [String]) -> DriverError {
    .system(
      .init(
        Report(
          "DRIVER-608",
          "the state that was to be kept in \(workspace) can't be put back: \(names.joined(separator: ", ")) missing",
          retry: .never
        ).state("nothing was changed: \(directory) is as it was")
          .remedy("put the state back by hand if you have it elsewhere, or restore an earlier point")))
  }

  private func move(_ name: String, from: String, to: String) throws(DriverError) {
    try step("rename \(from)/\(name)") { () throws(SystemFailure) in
      try Files.renameExclusive("\(from)/\(name)", to: "\(to)/\(name)")
      try Files.synchronizeDirectory(from)
      try Files.synchronizeDirectory(to)
    }
  }

  private func step(_ name: String, _ body: () throws(SystemFailure) -> Void) throws(DriverError) {
    try beforeCall(name)
    do throws(SystemFailure) { try body() } catch { throw DriverError(error) }
  }

  private func write(_ plan: Plan) throws(DriverError) {
    let bytes: [UInt8]
    do { bytes = try CanonicalJSON.encode(plan) } catch { throw DriverError(error) }
    try step("write \(planPath)") { () throws(SystemFailure) in try Files.replace(planPath, with: bytes) }
  }

  private func readPlan() throws(DriverError) -> Plan {
    do { return try CanonicalJSON.decode(Plan.self, from: try Files.read(planPath, limitBytes: 65_536)) } catch {
      throw DriverError(error)
    }
  }
}
