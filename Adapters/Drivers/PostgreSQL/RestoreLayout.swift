import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where one restore's pieces are: the data directory and each tablespace, beside and live.
///
/// A tablespace's version directory is swapped, not its location: locations are often mount points.
struct RestoreLayout: Sendable {
  struct Space: Sendable {
    var oid: UInt32
    /// What the live cluster's link leads to.
    var location: String
    var swap: PathSwap
    /// What the link leads to while the cluster is beside: a directory with `PG_…` in it, itself a link to `beside`.
    var linkTarget: String { swap.workspace + "/location" }
  }

  var data: PathSwap
  var spaces: [Space]
  var version: String

  init(_ request: RestoreRequest, _ facts: RestoreFacts, dataDirectory: String) {
    data = PathSwap(live: dataDirectory, workspace: request.workspace(beside: dataDirectory))
    version = facts.tablespaceVersion
    spaces = facts.tablespaces.map { space in
      let live = space.location + "/" + facts.tablespaceVersion
      return Space(
        oid: space.oid, location: space.location, swap: PathSwap(live: live, workspace: request.workspace(beside: live))
      )
    }
  }

  /// Configuration, socket and log of the server beside.
  var control: String { data.workspace + "/control" }
  /// Written when everything is proved; with it there is nothing left to do.
  var outcome: String { data.workspace + "/restored.json" }

  /// Points the links in a data directory at the live locations, or at those beside. Blocks.
  func link(_ directory: String, toLive: Bool) throws(SystemFailure) {
    for space in spaces {
      let path = "\(directory)/pg_tblspc/\(space.oid)"
      let target = toLive ? space.location : space.linkTarget
      if readLink(path) == target { continue }
      let temporary = path + ".salvor"
      unlink(temporary)
      guard symlink(target, temporary) == 0 else { throw SystemFailure("symlink", path: temporary) }
      if geteuid() == 0, let owner = readMetadata(directory), lchown(temporary, owner.userID, owner.groupID) != 0 {
        throw SystemFailure("chown", path: temporary)
      }
      try Files.rename(temporary, to: path)
    }
    if !spaces.isEmpty { try Files.synchronizeDirectory(directory + "/pg_tblspc") }
  }

  /// The server reads it at the start of recovery and makes the links.
  ///
  /// Source: PostgreSQL 15, src/backend/access/transam/xlogrecovery.c, read_tablespace_map.
  var tablespaceMap: String {
    spaces.map { space in
      "\(space.oid) " + space.linkTarget.map { $0 == "\\" || $0 == "\n" ? "\\\($0)" : String($0) }.joined() + "\n"
    }.joined()
  }
}

/// What a restore beside came to; kept in the workspace.
struct RestoreOutcome: Codable, Sendable {
  var state: RestoredState
  var digest: ContentDigest?
}
