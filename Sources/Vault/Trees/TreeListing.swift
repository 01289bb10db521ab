import Core
import IO

/// Lists nodes as `restic ls` does, line for line.
///
/// Source: restic 0.14, cmd/restic/cmd_ls.go and format.go; Go, io/fs, FileMode.String.
package enum TreeListing {
  /// `restic ls --json`: one object per line, without the newline.
  package static func json(_ path: TreePath, _ node: TreeNode) -> [UInt8] {
    let metadata = node.metadata
    let mode = GoFileMode.encode(metadata.kind, metadata.permissions)
    var out = Array(#"{"name":"#.utf8)
    GoText.appendString(node.name.bytes, to: &out)
    out += Array(#","type":"\#(metadata.kind.nodeType)","path":"#.utf8)
    GoText.appendString(path.bytes(below: ""), to: &out)
    out += Array(#","uid":\#(metadata.userID),"gid":\#(metadata.groupID)"#.utf8)
    if metadata.kind.isRegular { out += Array(#","size":\#(metadata.size)"#.utf8) }
    if mode != 0 { out += Array(#","mode":\#(mode)"#.utf8) }
    out += Array(#","permissions":"\#(permissions(metadata))","mtime":"#.utf8)
    GoText.append(metadata.modified, to: &out)
    out += Array(#","atime":"#.utf8)
    GoText.append(metadata.accessed, to: &out)
    out += Array(#","ctime":"#.utf8)
    GoText.append(metadata.changed, to: &out)
    out += Array(#","struct_type":"node"}"#.utf8)
    return out
  }

  /// `restic ls --long`, in UTC; bytes, because names need not be UTF-8.
  package static func long(_ path: TreePath, _ node: TreeNode) -> [UInt8] {
    let metadata = node.metadata
    var time = metadata.modified.format(fractionDigits: 0)
    time.removeLast()
    let head = [
      permissions(metadata), padded(metadata.userID, 5), padded(metadata.groupID, 5), padded(metadata.size, 6),
      time.replacing("T", with: " "),
    ]
    var out = Array(head.joined(separator: " ").utf8) + [32] + path.bytes(below: "")
    if case .symbolicLink(let target) = metadata.kind { out += Array(" -> ".utf8) + target }
    return out
  }

  /// Go's spelling of a mode: `drwxr-xr-x`, `urwxr-xr-x`, `Dcrw-r--r--`.
  package static func permissions(_ metadata: FileMetadata) -> String {
    let mode = GoFileMode.encode(metadata.kind, metadata.permissions)
    var text = ""
    for (index, letter) in "dalTLDpSugct?".enumerated() where mode >> UInt32(31 - index) & 1 != 0 {
      text.append(letter)
    }
    if text.isEmpty { text = "-" }
    for (index, letter) in "rwxrwxrwx".enumerated() {
      text.append(mode >> UInt32(8 - index) & 1 != 0 ? letter : "-")
    }
    return text
  }

  private static func padded(_ value: some BinaryInteger, _ width: Int) -> String {
    let digits = String(value)
    return String(repeating: " ", count: max(0, width - digits.count)) + digits
  }
}
