import Core
import IO

/// Writes tree blobs, byte for byte as restic does.
///
/// Source: docs/design/restic-format.md, "Trees".
package enum TreeEncoder {
  /// - Parameter nodes: In any order; written ascending by the bytes of their names.
  package static func encode(_ nodes: [TreeNode]) -> [UInt8] {
    var encoded = nodes.map { ($0.name, encode($0)) }
    encoded.sort { $0.0 < $1.0 }
    return join(encoded.map(\.1))
  }

  /// A tree of nodes that are encoded already and in order.
  static func join(_ nodes: [[UInt8]]) -> [UInt8] {
    var out: [UInt8] = []
    out.reserveCapacity(nodes.reduce(16) { $0 + $1.count + 1 })
    out += open
    var isFirst = true
    for node in nodes {
      if !isFirst { out.append(44) }
      isFirst = false
      out += node
    }
    out += close
    return out
  }

  static func encode(_ node: TreeNode) -> [UInt8] {
    var out: [UInt8] = []
    out.reserveCapacity(384 + node.name.bytes.count + 67 * node.content.count)
    append(node, to: &out)
    return out
  }

  private static func append(_ node: TreeNode, to out: inout [UInt8]) {
    appendHead(node, to: &out)
    if node.metadata.kind.isRegular {
      out.append(91)
      var isFirst = true
      for id in node.content {
        if !isFirst { out.append(44) }
        isFirst = false
        GoText.append(id, to: &out)
      }
      out.append(93)
    } else {
      out += key.null
    }
    if let subtree = node.subtree {
      out += key.subtree
      GoText.append(subtree, to: &out)
    }
    text(key.error, node.error, to: &out)
    out.append(125)
  }

  /// A node up to where its content begins.
  static func appendHead(_ node: TreeNode, to out: inout [UInt8]) {
    let metadata = node.metadata
    out += key.name
    GoText.appendQuotedName(node.name.bytes, to: &out)
    out += key.type
    GoText.appendString(metadata.kind.nodeType.utf8, to: &out)
    number(key.mode, UInt64(GoFileMode.encode(metadata.kind, metadata.permissions)), to: &out)
    out += key.mtime
    GoText.append(metadata.modified, to: &out)
    out += key.atime
    GoText.append(metadata.accessed, to: &out)
    out += key.ctime
    GoText.append(metadata.changed, to: &out)
    out += key.uid
    GoText.append(UInt64(metadata.userID), to: &out)
    out += key.gid
    GoText.append(UInt64(metadata.groupID), to: &out)
    text(key.user, metadata.userName, to: &out)
    text(key.group, metadata.groupName, to: &out)
    number(key.inode, metadata.inode, to: &out)
    number(key.deviceID, metadata.device, to: &out)
    number(key.size, UInt64(clamping: metadata.size), to: &out)
    number(key.links, metadata.links, to: &out)
    if case .symbolicLink(let target) = metadata.kind, !target.isEmpty {
      out += key.linkTarget
      GoText.appendString(target, to: &out)
      if !isUTF8(target) {
        out += key.linkTargetRaw
        GoText.appendBase64(target, to: &out)
      }
    }
    attributes(metadata.extendedAttributes, to: &out)
    if !node.genericAttributes.isEmpty {
      out += key.genericAttributes
      out += node.genericAttributes
    }
    switch metadata.kind {
    case .blockDevice(let device), .characterDevice(let device): number(key.device, device, to: &out)
    default: break
    }
    out += key.content
  }

  private static func attributes(_ attributes: [ExtendedAttribute], to out: inout [UInt8]) {
    guard !attributes.isEmpty else { return }
    out += key.extendedAttributes
    var isFirst = true
    for attribute in attributes {
      if !isFirst { out.append(44) }
      isFirst = false
      out += key.attributeName
      GoText.appendString(attribute.name.utf8, to: &out)
      out += key.attributeValue
      GoText.appendBase64(attribute.value, to: &out)
      out.append(125)
    }
    out.append(93)
  }

  private static func number(_ key: [UInt8], _ value: UInt64, to out: inout [UInt8]) {
    guard value != 0 else { return }
    out += key
    GoText.append(value, to: &out)
  }

  private static func text(_ key: [UInt8], _ value: String, to out: inout [UInt8]) {
    guard !value.isEmpty else { return }
    out += key
    GoText.appendString(value.utf8, to: &out)
  }

  private static func isUTF8(_ bytes: [UInt8]) -> Bool { String(validating: bytes, as: UTF8.self) != nil }

  static let open = Array(#"{"nodes":["#.utf8)
  static let close = Array("]}\n".utf8)
  static var subtreeKey: [UInt8] { key.subtree }
  private static let key = Keys()

  private struct Keys: Sendable {
    let name = Array(#"{"name":"#.utf8)
    let type = Array(#","type":"#.utf8)
    let mode = Array(#","mode":"#.utf8)
    let mtime = Array(#","mtime":"#.utf8)
    let atime = Array(#","atime":"#.utf8)
    let ctime = Array(#","ctime":"#.utf8)
    let uid = Array(#","uid":"#.utf8)
    let gid = Array(#","gid":"#.utf8)
    let user = Array(#","user":"#.utf8)
    let group = Array(#","group":"#.utf8)
    let inode = Array(#","inode":"#.utf8)
    let deviceID = Array(#","device_id":"#.utf8)
    let size = Array(#","size":"#.utf8)
    let links = Array(#","links":"#.utf8)
    let linkTarget = Array(#","linktarget":"#.utf8)
    let linkTargetRaw = Array(#","linktarget_raw":"#.utf8)
    let extendedAttributes = Array(#","extended_attributes":["#.utf8)
    let attributeName = Array(#"{"name":"#.utf8)
    let attributeValue = Array(#","value":"#.utf8)
    let genericAttributes = Array(#","generic_attributes":"#.utf8)
    let device = Array(#","device":"#.utf8)
    let content = Array(#","content":"#.utf8)
    let null = Array("null".utf8)
    let subtree = Array(#","subtree":"#.utf8)
    let error = Array(#","error":"#.utf8)
  }
}
