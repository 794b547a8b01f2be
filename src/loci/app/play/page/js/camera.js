// A picture from the camera. The camera is on only while its picture is shown.

export function camera({ open, viewfinder, take, cancel }, use, say) {
  const video = viewfinder.querySelector("video");
  let stream = null;
  const close = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    viewfinder.hidden = true;
  };
  open.hidden = !navigator.mediaDevices?.getUserMedia;
  open.addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      return say(`Camera: ${error.message}`);
    }
    video.srcObject = stream;
    viewfinder.hidden = false;
    await video.play();
  });
  cancel.addEventListener("click", close);
  take.addEventListener("click", () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    canvas.toBlob(use, "image/jpeg", 0.95);
  });
}
