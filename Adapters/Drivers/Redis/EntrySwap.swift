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

  var hasBegun: Bool { Files.exists(planPath) }

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
    if !hasBegun {
      guard Files.exists(next) else { throw .engineFailed("nothing was restored beside \(directory)", log: "") }
      let plan = Plan(
        hadLive: Set(names.filter { Files.exists("\(directory)/\($0)") }),
        hasNext: Set(names.filter { Files.exists("\(next)/\($0)") }))
      try write(plan)
    }
    let plan = try readPlan()
    if Files.exists(swappedPath) { return }
    for name in names {
      if plan.hadLive.contains(name), !Files.exists("\(kept)/\(name)") { try move(name, from: directory, to: kept) }
      if plan.hasNext.contains(name), Files.exists("\(next)/\(name)") { try move(name, from: next, to: directory) }
    }
    try step("write \(swappedPath)") { () throws(SystemFailure) in try Files.replace(swappedPath, with: []) }
  }

  /// Safe to replay; nothing if no swap has begun.
  func swapOut() throws(DriverError) {
    guard hasBegun else { return }
    let plan = try readPlan()
    try step("remove \(swappedPath)") { () throws(SystemFailure) in
      try Files.removeTree(swappedPath)
      try Files.createDirectory(surplus, mode: 0o700)
      try Files.synchronizeDirectory(workspace)
    }
    for name in names {
      let live = "\(directory)/\(name)"
      if plan.hasNext.contains(name) {
        if !Files.exists("\(next)/\(name)"), Files.exists(live) { try move(name, from: directory, to: next) }
      } else if Files.exists(live), !plan.hadLive.contains(name) || Files.exists("\(kept)/\(name)") {
        // The server made it after the swap; it belongs to neither state.
        try step("remove \(surplus)/\(name)") { () throws(SystemFailure) in try Files.removeTree("\(surplus)/\(name)") }
        try move(name, from: directory, to: surplus)
      }
      if plan.hadLive.contains(name), Files.exists("\(kept)/\(name)") { try move(name, from: kept, to: directory) }
    }
    try step("remove \(planPath)") { () throws(SystemFailure) in
      try Files.removeTree(planPath)
      try Files.synchronizeDirectory(workspace)
    }
  }

  /// - Throws: If a swap was begun and not ended, either way.
  func checkSettled() throws(DriverError) {
    guard !hasBegun || Files.exists(swappedPath) else {
      throw .engineFailed("a swap in \(directory) was cut short; finish it or undo it first", log: "")
    }
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
