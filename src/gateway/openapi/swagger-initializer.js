// A file of its own: the page's policy forbids scripts inside of it.
window.onload = () => {
  window.ui = SwaggerUIBundle({
    configUrl: "../v3/api-docs/swagger-config",
    dom_id: "#swagger-ui",
    deepLinking: true,
  });
};
